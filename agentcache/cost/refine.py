"""A profile that follows the engine: least squares on step times that forgets, and that no single time can move far."""

from dataclasses import replace
from typing import Any

import numpy as np

from agentcache.cost.fit import features, is_timed
from agentcache.cost.profile import COEFFICIENTS, CostProfile
from agentcache.model import StepTimed

Array = np.ndarray[Any, np.dtype[np.float64]]


class Refiner:
    """Estimates, for each coefficient, the factor between what the engine shows and what the profile says.

    A step's time over its predicted one is linear in the factors, with the predicted shares of the coefficients as
    weights; they sum to 1, so whatever the units this is well scaled. The factors are the recursive least squares
    estimate with a forgetting factor, in information form, towards 1 with the weight of `trust` steps. That part never
    fades, so a coefficient that traffic does not show goes back to the profile instead of drifting.

    Bounded influence: a time counts as at most `clip` longer or shorter than expected, and factors are clipped to
    [`low`, `high`]. `outside` names the coefficients that want to go beyond: the engine is not the one that was
    measured. Times that are none are ignored, and counted in `ignored`.
    """

    def __init__(
        self,
        profile: CostProfile,
        forgetting: float = 0.999,
        trust: float = 2.0,
        clip: float = 0.25,
        low: float = 0.5,
        high: float = 2.0,
    ) -> None:
        self.measured = profile
        self.profile = profile
        self.ignored = 0
        self.steps = 0
        self.outside: frozenset[str] = frozenset()
        self._forgetting, self._trust, self._clip = forgetting, trust, clip
        self._low, self._high = low, high
        self._base: Array = np.array([getattr(profile, name) for name in COEFFICIENTS])
        self._information: Array = trust * np.eye(len(COEFFICIENTS))
        self._sum: Array = trust * np.ones(len(COEFFICIENTS))
        self._factors: Array = np.ones(len(COEFFICIENTS))

    @property
    def factors(self) -> dict[str, float]:
        """What each coefficient is multiplied with; 1 for those that are 0."""
        return dict(zip(COEFFICIENTS, map(float, self._factors), strict=True))

    def observe(self, step: StepTimed) -> None:
        """Learn from a step; `profile` is the refined one from here on."""
        floored = self.measured.floor > self.measured.c_lin * step.tokens + self.measured.c_dec * step.decodes
        parts = self._base * features(step, floored)
        expected = float(parts.sum())
        if not is_timed(step) or expected <= 0:
            self.ignored += 1
            return
        self.steps += 1
        shares = parts / expected
        likely = float(shares @ self._factors)
        seen = min(max(step.seconds / expected, likely * (1 - self._clip)), likely * (1 + self._clip))
        keep = self._forgetting
        self._information = keep * self._information + np.outer(shares, shares)
        self._information[np.diag_indices(len(shares))] += (1 - keep) * self._trust
        self._sum = keep * self._sum + seen * shares + (1 - keep) * self._trust
        free = np.linalg.solve(self._information, self._sum)
        self._factors = np.clip(free, self._low, self._high)
        self.outside = frozenset(n for n, f, c in zip(COEFFICIENTS, free, self._factors, strict=True) if f != c)
        coefficients: dict[str, Any] = dict(zip(COEFFICIENTS, map(float, self._base * self._factors), strict=True))
        self.profile = replace(self.measured, **coefficients)
