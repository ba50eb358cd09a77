"""When contexts come back: censored survival curves of their pauses, learnt while serving, by class.

A pause runs from the end of a turn to the arrival of the next one of its context, possibly for ever. Pauses still
running count as censored at their age (Kaplan and Meier, 1958): a class of which most never return must not look as
if all did. Classes form a tree, and each leans on its parent until it has seen enough itself:

    all -> stop reason -> tool name -> depth of the turn
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Counts:
    """Of one class: pauses that ended in each bucket, and those that were lost from sight there."""

    returns: Any = field(default_factory=lambda: np.zeros(BUCKETS))
    censored: Any = field(default_factory=lambda: np.zeros(BUCKETS))


class Curve:
    """One class's estimate: `hazard[j]` is the probability to return in bucket j for those who reach it."""

    def __init__(self, hazard: Any) -> None:
        self.hazard = np.minimum(hazard, 1 - 1e-9)
        alive = np.concatenate(([1.0], np.cumprod(1 - self.hazard)))
        # Who returns inside a bucket waits half of it.
        held = np.concatenate(([0.0], np.cumsum(alive[:-1] * _WIDTHS * (1 - self.hazard / 2))))
        returned = alive[:-1, None] - alive[None, 1:]
        waited = held[None, 1:] - held[:-1, None]
        later = np.triu(np.ones((BUCKETS, BUCKETS), dtype=bool))
        rates = np.where(later & (waited > 0), returned / np.where(waited > 0, waited, 1.0), 0.0)
        self.rates: list[float] = rates.max(axis=1).tolist()
        self._alive: list[float] = alive.tolist()

    def alive(self, age_s: float) -> float:
        """P(no return up to this age); log-linear within a bucket."""
        j = bucket(age_s)
        start, end = self._alive[j], self._alive[j + 1]
        if start <= 0.0:
            return 0.0
        share = min((age_s - EDGES[j]) / (EDGES[j + 1] - EDGES[j]), 1.0)
        return start * math.pow(max(end, 1e-300) / start, share)

    def p_return(self, age_s: float, window_s: float) -> float:
        """P(return within the window, given none up to this age)."""
        alive = self.alive(age_s)
        return 1 - self.alive(age_s + window_s) / alive if alive > 0 else 0.0


class Survival:
    """Learns from contexts that pause and return; says how likely and how soon a paused one does.

    Contexts are named by identity, times are seconds on one monotonic clock. `generation` counts the times that the
    curves changed: whoever keeps something that was computed from them recomputes it then.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._counts: dict[Path, _Counts] = {(): _Counts()}
        self._curves: dict[Path, Curve] = {}
        self._returns: Counter[Path] = Counter()
        self._pausing: dict[Context, tuple[Path, float]] = {}
        self._tools: Counter[str] = Counter()
        self._seen = 0
        self._release_ages: dict[tuple[Path, float, float], float] = {}

    @property
    def ready(self) -> bool:
        """Whether enough returns were seen to order anything by them."""
        return () in self._curves

    # Learning

    def paused(self, context: Context, now: float) -> None:
        """A turn of the context is over and no other one is open."""
        self._pausing[context] = (self._path(context), now)

    def returned(self, context: Context, now: float) -> None:
        """A turn of a paused context has arrived."""
        if (pause := self._pausing.pop(context, None)) is None:
            return
        path, since = pause
        j = bucket(now - since)
        for part in _lineage(path):
            self._at(part).returns[j] += 1
            self._returns[part] += 1
        self._seen += 1
        if self._seen in _REBUILDS or self._seen % _REBUILD_EVERY == 0:
            self.rebuild(now)

    def lost(self, context: Context, now: float) -> None:
        """A paused context is out of sight: it had not returned so far, and that count stays."""
        if (pause := self._pausing.pop(context, None)) is not None:
            path, since = pause
            for part in _lineage(path):
                self._at(part).censored[bucket(now - since)] += 1

    def ended(self, context: Context) -> None:
        """A context is known to have ended: it says nothing about those of which that is not known."""
        self._pausing.pop(context, None)

    def rebuild(self, now: float) -> None:
        """Estimate all curves anew, from the roots on."""
        if self._seen % _DECAY_EVERY == 0 and self._seen:
            for counts in self._counts.values():
                counts.returns *= _DECAY
                counts.censored *= _DECAY
        running: dict[Path, Any] = {}
        for path, since in self._pausing.values():
            j = bucket(now - since)
            for part in _lineage(path):
                if part not in running:
                    running[part] = np.zeros(BUCKETS)
                running[part][j] += 1
        self._curves = {}
        self._release_ages = {}
        if self._returns[()] >= MIN_RETURNS:
            for path in sorted(self._counts, key=len):
                if path == () or self._returns[path] >= MIN_RETURNS:
                    self._curves[path] = Curve(self._hazard(path, running.get(path, 0.0)))
        self.generation += 1

    def _hazard(self, path: Path, running: Any) -> Any:
        counts = self._counts[path]
        reaching = np.cumsum((counts.returns + counts.censored + running)[::-1])[::-1]
        if path == ():
            return (counts.returns + 0.02) / (reaching + 1)
        parent = self.curve(path[:-1]).hazard
        return (counts.returns + _PARENT_WEIGHT * parent) / (reaching + _PARENT_WEIGHT)

    def _at(self, path: Path) -> _Counts:
        counts = self._counts.get(path)
        if counts is None:
            counts = self._counts[path] = _Counts()
        return counts

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
        while path and path not in self._curves:
            path = path[:-1]
        return self._curves[path]

    def rates(self, context: Context) -> list[float]:
        """By age bucket: the most returns per second of waiting that keeping the context can bring (Gittins, 1979).

        max over h of P(return within h | age) / E[seconds held until then]. The context must be paused.
        """
        return self.curve(self._pausing[context][0]).rates

    def since(self, context: Context) -> float | None:
        """Since when the context has been paused; None if it is not."""
        pause = self._pausing.get(context)
        return pause[1] if pause else None

    def p_return(self, context: Context, age_s: float, window_s: float) -> float:
        """P(the context returns within the window, having been away for `age_s`); 1 while nothing is known."""
        if not self.ready:
            return 1.0
        path = self._pausing[context][0] if context in self._pausing else self._path(context)
        return self.curve(path).p_return(age_s, window_s)

    def release_age_s(self, context: Context, window_s: float, theta: float) -> float:
        """The age from which on P(return within the window) stays below `theta`; infinity while nothing is known."""
        if not self.ready:
            return math.inf
        path = self._pausing[context][0] if context in self._pausing else self._path(context)
        found = self._release_ages.get((path, window_s, theta))
        if found is None:
            curve = self.curve(path)
            ages = [age for age in EDGES[:-1] if curve.p_return(age, window_s) >= theta]
            found = EDGES[EDGES.index(ages[-1]) + 1] if ages else 0.0
            self._release_ages[(path, window_s, theta)] = found
        return found

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        for path in self._counts:
            if path and path[:-1] not in self._counts:
                raise CheckFailed(f"survival: class {path} has no parent")
        for path, curve in self._curves.items():
            if not np.all((curve.hazard >= 0) & (curve.hazard <= 1)):
                raise CheckFailed(f"survival: class {path} has a hazard outside [0, 1]")


def _lineage(path: Path) -> Iterator[Path]:
    return (path[:n] for n in range(len(path) + 1))
