"""From timed steps to a profile: non-negative least squares on relative errors, judged on steps left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from agentcache.cost.profile import COEFFICIENTS, CostProfile
from agentcache.errors import InputError
from agentcache.model import StepTimed

HELD_OUT = 5
"""Every fifth step is left out of the fit and used to judge it."""

Array = np.ndarray[Any, np.dtype[np.float64]]


def features(step: StepTimed, floored: bool = False) -> tuple[float, ...]:
    """What each coefficient is multiplied with in a step's time, in the order of `COEFFICIENTS`.

    `floored`: the floor stands in the place of the work of tokens and decodes. A fit has no floor: c0 covers it.
    """
    extra_segments = max(step.segments - 1, 0)
    tokens, decodes = (0, 0) if floored else (step.tokens, step.decodes)
    return (1, extra_segments, tokens, step.linked, step.pairs, decodes, step.context_tokens, floored)


def is_timed(step: StepTimed) -> bool:
    """Whether a step's time is a time: a finite number of seconds above 0."""
    return math.isfinite(step.seconds) and step.seconds > 0


@dataclass(frozen=True, slots=True)
class Point:
    """A step as measured and as the fitted profile predicts it, in seconds."""

    measured_s: float
    predicted_s: float
    held_out: bool

    @property
    def error(self) -> float:
        """Relative: 0.1 is predicted 10 % too long."""
        return self.predicted_s / self.measured_s - 1


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile, the points it was fitted to and judged by, and what to think of it.

    `negative` names the coefficients that an unconstrained fit would have made negative: the grid does not tell their
    cause apart from another one.
    """

    profile: CostProfile
    points: tuple[Point, ...]
    negative: tuple[str, ...]

    def accepted(self, median: float, p95: float) -> bool:
        """Whether the relative errors on the held-out points are within these bounds."""
        found = self.profile.med_rel_err, self.profile.p95_rel_err
        return found[0] is not None and found[1] is not None and found[0] <= median and found[1] <= p95


def fit(steps: Sequence[StepTimed], about: CostProfile) -> Fit:
    """Fit the coefficients to timed steps; `about` gives the profile's other fields.

    Rows are weighted by 1/T, so that a step of 10 ms and one of 10 s count alike. Raises `InputError` for a time that
    is none, and for fewer steps than can tell the coefficients apart.
    """
    if (few := 2 * len(COEFFICIENTS)) > len(steps):
        raise InputError(f"{len(steps)} timed steps, expected at least {few}; no profile was fitted")
    for number, step in enumerate(steps):
        if not is_timed(step):
            raise InputError(
                f"timed step {number} took {step.seconds} s, expected a finite time above 0; no profile was fitted"
            )
    rows = np.array([features(step) for step in steps], dtype=np.float64)
    times = np.array([step.seconds for step in steps])
    held = np.arange(len(steps)) % HELD_OUT == HELD_OUT - 1
    weighted = rows[~held] / times[~held, None]
    scale = np.linalg.norm(weighted, axis=0)
    scale[scale == 0] = 1.0
    solution = nnls(weighted / scale, np.ones(len(weighted)))[0] / scale
    plain = np.linalg.lstsq(weighted / scale, np.ones(len(weighted)), rcond=None)[0] / scale
    # Below a thousandth of the typical step, a negative coefficient is noise around zero.
    negative = [n for n, c, s in zip(COEFFICIENTS, plain, scale, strict=True) if c * s < -1e-3 * math.sqrt(len(rows))]

    predicted = rows @ solution
    points = tuple(Point(float(t), float(p), bool(h)) for t, p, h in zip(times, predicted, held, strict=True))
    errors = np.abs(predicted[held] / times[held] - 1)
    coefficients: dict[str, Any] = dict(zip(COEFFICIENTS, map(float, solution), strict=True))
    spread = float(((times[held] - times[held].mean()) ** 2).sum())
    profile = replace(
        about,
        **coefficients,
        r2=1 - float(((times[held] - predicted[held]) ** 2).sum()) / spread if spread else None,
        med_rel_err=float(np.median(errors)),
        p95_rel_err=float(np.quantile(errors, 0.95)),
        n_points=len(steps),
    )
    return Fit(profile, points, tuple(negative))


def calibrate(steps: Sequence[StepTimed], prior: CostProfile) -> CostProfile:
    """A first profile out of ordinary steps, which do not tell linear work from attention: their ratio is the prior's.

    Steps more than twice off, such as the first of a process, are left out of a second fit. c_seg and c_load are 0.
    """
    ratio = prior.c_att / prior.c_lin if prior.c_lin else 1.0
    rows = np.array([(1, s.tokens + ratio * s.pairs, s.decodes, s.context_tokens) for s in steps], dtype=np.float64)
    times = np.array([step.seconds for step in steps])
    kept = np.ones(len(steps), dtype=bool)
    for _ in range(2):
        weighted = rows[kept] / times[kept, None]
        scale = np.maximum(np.linalg.norm(weighted, axis=0), 1e-300)
        solution = nnls(weighted / scale, np.ones(len(weighted)))[0] / scale
        off = rows @ solution / times
        kept = (off > 0.5) & (off < 2)
        if not kept.any():
            break
    c0, c_lin, c_dec, c_kv = map(float, solution)
    c_lin = c_lin or prior.c_lin
    return replace(prior, c0=c0, c_lin=c_lin, c_att=ratio * c_lin, c_seg=0.0, c_load=0.0, c_dec=c_dec, c_kv=c_kv)
