"""When contexts come back: censored survival curves of their pauses, learnt while serving, by class.

A pause runs from the end of a turn to the arrival of the next one of its context, possibly for ever. Pauses still
running count as censored at their age (Kaplan and Meier, 1958): a class of which most never return must not look as
if all did. Classes form a tree, and each leans on its parent until it has seen enough itself:

    all -> stop reason -> tool name -> depth of the turn

What was seen is frozen now and then, in a few array operations; a class's curve is estimated from it when somebody
first asks for it, so no call takes longer for there being many classes.
"""

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from agentcache.errors import CheckFailed
from agentcache.model import Context

BUCKETS = 60
EDGES = tuple(2 ** (j / 4) - 1 for j in range(BUCKETS + 1))
"""Bucket j of an age holds [EDGES[j], EDGES[j + 1]) seconds: 0 to about 9 hours."""

MIN_RETURNS = 30
"""A class with fewer returns than this lets its parent speak; fewer in all, and nothing is known."""

Path = tuple[Any, ...]
"""A class: the values of stop reason, tool and depth so far; () is the root."""

_WIDTHS = np.diff(EDGES)
_PARENT_WEIGHT = 20.0
_MAX_TOOLS = 32
_REBUILDS = (10, 50, 100, 200, 400)
_REBUILD_EVERY = 500
_DECAY, _DECAY_EVERY = 0.9, 2000


def bucket(age_s: float) -> int:
    """The bucket of an age; the last one for whatever is older."""
    if age_s <= 0:
        return 0
    # The logarithm may miss an edge by one; the table decides.
    j = min(int(4 * math.log2(age_s + 1)), BUCKETS - 1)
    if age_s < EDGES[j]:
        return j - 1
    return j + 1 if j + 1 < BUCKETS and age_s >= EDGES[j + 1] else j


_LATER = np.triu(np.ones((BUCKETS, BUCKETS), dtype=bool))


@dataclass(frozen=True, slots=True)
class _Frozen:
    """What had been seen at one moment: by class and bucket, pauses that ended, were lost, and were still running."""

    counts: Any  # [class, 2, bucket]: returns, censored
    returns: tuple[int, ...]  # of each class in all, without decay
    running: Any  # [class, bucket], of the most specific classes alone


class Curve:
    """One class's estimate: `hazard[j]` is the probability to return in bucket j for those who reach it."""

    def __init__(self, hazard: Any) -> None:
        self.hazard = np.minimum(hazard, 1 - 1e-9)
        alive = np.concatenate(([1.0], np.cumprod(1 - self.hazard)))
        # Who returns inside a bucket waits half of it.
        held = np.concatenate(([0.0], np.cumsum(alive[:-1] * _WIDTHS * (1 - self.hazard / 2))))
        returned = alive[:-1, None] - alive[None, 1:]
        waited = held[None, 1:] - held[:-1, None]
        fine = _LATER & (waited > 0)
        rates = np.divide(returned, waited, out=np.zeros_like(returned), where=fine)
        self.rates: list[float] = rates.max(axis=1).tolist()
        self._alive: list[float] = alive.tolist()

    def alive(self, age_s: float) -> float:
        """P(no return up to this age); log-linear within a bucket."""
        return self._alive_at(*_place(age_s))

    def _alive_at(self, j: int, share: float) -> float:
        start, end = self._alive[j], self._alive[j + 1]
        return start * math.pow(max(end, 1e-300) / start, share) if start > 0.0 else 0.0

    def p_return(self, age_s: float, window_s: float) -> float:
        """P(return within the window, given none up to this age)."""
        alive = self.alive(age_s)
        return 1 - self.alive(age_s + window_s) / alive if alive > 0 else 0.0

    def release_age_s(self, window_s: float, theta: float) -> float:
        """The first edge from which on P(return within the window) is below `theta` at each; 0 if it always is."""
        for j, place in reversed(_windows(window_s)):
            if (alive := self._alive[j]) > 0 and 1 - self._alive_at(*place) / alive >= theta:
                return EDGES[j + 1]
        return 0.0


def _place(age_s: float) -> tuple[int, float]:
    """The bucket of an age, and how far in it that is, from 0 to 1."""
    j = bucket(age_s)
    return j, min((age_s - EDGES[j]) / (EDGES[j + 1] - EDGES[j]), 1.0)


@lru_cache(64)
def _windows(window_s: float) -> tuple[tuple[int, tuple[int, float]], ...]:
    """For each edge, the place of the end of a window that begins there."""
    return tuple((j, _place(age_s + window_s)) for j, age_s in enumerate(EDGES[:-1]))


class Survival:
    """Learns from contexts that pause and return; says how likely and how soon a paused one does.

    Contexts are named by identity, times are seconds on one monotonic clock. `generation` counts the times that the
    curves changed: whoever keeps something that was computed from them recomputes it then.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._rows: dict[Path, int] = {}  # classes, each behind its parent
        self._lineages: list[tuple[int, ...]] = []  # of each class, the rows from the root to itself
        self._below: list[list[int]] = []  # of each class, the rows of itself and of all classes under it
        self._counts = np.zeros((64, 2, BUCKETS))
        self._returns: list[int] = []
        self._row(())
        self._frozen: _Frozen | None = None
        self._curves: dict[int, Curve] = {}
        self._pausing: dict[Context, tuple[int, float]] = {}  # the class, and since when
        self._tools: Counter[str] = Counter()
        self._seen = 0
        self._release_ages: dict[tuple[int, float, float], float] = {}

    @property
    def ready(self) -> bool:
        """Whether enough returns were seen to order anything by them."""
        return self._frozen is not None and self._frozen.returns[0] >= MIN_RETURNS

    # Learning

    def paused(self, context: Context, now: float) -> None:
        """A turn of the context is over and no other one is open."""
        self._pausing[context] = (self._row(self._path(context)), now)

    def returned(self, context: Context, now: float) -> None:
        """A turn of a paused context has arrived."""
        if (pause := self._pausing.pop(context, None)) is None:
            return
        row, since = pause
        j = bucket(now - since)
        for part in self._lineages[row]:
            self._counts[part, 0, j] += 1
            self._returns[part] += 1
        self._seen += 1
        if self._seen in _REBUILDS or self._seen % _REBUILD_EVERY == 0:
            self.rebuild(now)

    def lost(self, context: Context, now: float) -> None:
        """A paused context is out of sight: it had not returned so far, and that count stays."""
        if (pause := self._pausing.pop(context, None)) is not None:
            row, since = pause
            for part in self._lineages[row]:
                self._counts[part, 1, bucket(now - since)] += 1

    def ended(self, context: Context) -> None:
        """A context is known to have ended: it says nothing about those of which that is not known."""
        self._pausing.pop(context, None)

    def rebuild(self, now: float) -> None:
        """From now on, curves are estimated from all that was seen up to here."""
        classes = len(self._rows)
        if self._seen % _DECAY_EVERY == 0 and self._seen:
            self._counts *= _DECAY
        pauses = np.fromiter(chain.from_iterable(self._pausing.values()), float, 2 * len(self._pausing))
        rows, ages = pauses[::2].astype(int), now - pauses[1::2]
        buckets = np.clip(np.searchsorted(EDGES, ages, side="right") - 1, 0, BUCKETS - 1)
        running = np.bincount(rows * BUCKETS + buckets, minlength=classes * BUCKETS).reshape(classes, BUCKETS)
        self._frozen = _Frozen(self._counts[:classes].copy(), tuple(self._returns), running)
        self._curves = {}
        self._release_ages = {}
        self.generation += 1

    def _curve(self, row: int) -> Curve:
        """The estimate that speaks for a class: its own, or that of the nearest class above with enough returns."""
        if self._frozen is None or not self.ready:
            raise KeyError("too few returns were seen to estimate anything")
        returns, lineage = self._frozen.returns, self._lineages[row]
        row = next(part for part in reversed(lineage) if part < len(returns) and returns[part] >= MIN_RETURNS)
        if (curve := self._curves.get(row)) is None:
            curve = self._curves[row] = Curve(self._hazard(row))
        return curve

    def _hazard(self, row: int) -> Any:
        assert self._frozen
        returns, censored = self._frozen.counts[row]
        running = self._frozen.running
        running = running[[part for part in self._below[row] if part < len(running)]].sum(axis=0)
        reaching = np.cumsum((returns + censored + running)[::-1])[::-1]
        if row == 0:
            return (returns + 0.02) / (reaching + 1)
        parent = self._curve(self._lineages[row][-2]).hazard
        return (returns + _PARENT_WEIGHT * parent) / (reaching + _PARENT_WEIGHT)

    def _row(self, path: Path) -> int:
        """The row of a class, a new one if there is none."""
        row = self._rows.get(path)
        if row is None:
            above = self._lineages[self._row(path[:-1])] if path else ()
            row = self._rows[path] = len(self._rows)
            self._lineages.append((*above, row))
            self._below.append([])
            for part in self._lineages[row]:
                self._below[part].append(row)
            self._returns.append(0)
            if row == len(self._counts):
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        return row

    def _path(self, context: Context) -> Path:
        tool = context.tool
        if tool is not None:
            if tool in self._tools or len(self._tools) < _MAX_TOOLS:
                self._tools[tool] += 1
            else:
                tool = "other"
        depth = bisect_right((1, 4, 16), context.depth - 1)
        return (context.standing, tool, depth)

    # Asking

    def curve(self, path: Path) -> Curve:
        """The most specific estimate that speaks for a class. Raises `KeyError` while nothing is known."""
        while path not in self._rows:
            path = path[:-1]
        return self._curve(self._rows[path])

    def rates(self, context: Context) -> list[float]:
        """By age bucket: the most returns per second of waiting that keeping the context can bring (Gittins, 1979).

        max over h of P(return within h | age) / E[seconds held until then]. The context must be paused.
        """
        return self._curve(self._pausing[context][0]).rates

    def since(self, context: Context) -> float | None:
        """Since when the context has been paused; None if it is not."""
        pause = self._pausing.get(context)
        return pause[1] if pause else None

    def p_return(self, context: Context, age_s: float, window_s: float) -> float:
        """P(the context returns within the window, having been away for `age_s`); 1 while nothing is known."""
        if not self.ready:
            return 1.0
        return self._curve(self._class(context)).p_return(age_s, window_s)

    def release_age_s(self, context: Context, window_s: float, theta: float) -> float:
        """The age from which on P(return within the window) stays below `theta`; infinity while nothing is known."""
        if not self.ready:
            return math.inf
        row = self._class(context)
        found = self._release_ages.get((row, window_s, theta))
        if found is None:
            found = self._curve(row).release_age_s(window_s, theta)
            self._release_ages[(row, window_s, theta)] = found
        return found

    def _class(self, context: Context) -> int:
        return pause[0] if (pause := self._pausing.get(context)) else self._row(self._path(context))

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        for path, row in self._rows.items():
            if path and self._lineages[row] != (*self._lineages[self._rows.get(path[:-1], -1)], row):
                raise CheckFailed(f"survival: class {path} does not stand under its parent")
        if not len(self._rows) == len(self._lineages) == len(self._below) == len(self._returns):
            raise CheckFailed(f"survival: {len(self._rows)} classes, {len(self._lineages)} lineages")
        for row, curve in self._curves.items():
            if not np.all((curve.hazard >= 0) & (curve.hazard <= 1)):
                raise CheckFailed(f"survival: the class in row {row} has a hazard outside [0, 1]")
