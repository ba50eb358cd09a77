"""Looks at what of each context is in memory, from time to time, for a picture of a run."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from agentcache.model import Key
from agentcache.model.context import Context
from agentcache.residency import Residency

SAMPLES, CONTEXTS = 120, 24
"""Looks that are kept (up to twice as many), and contexts that are followed: the first ones to come."""

RESIDENT, SHARED, HOLE = "r", "s", "h"


class Watcher:
    """Keeps the states of the followed contexts' blocks; when there are too many looks, every second one is dropped."""

    def __init__(self, samples: int = SAMPLES, contexts: int = CONTEXTS) -> None:
        self._samples = samples
        self._contexts = contexts
        self._every_s = 0.0
        self._times: list[float] = []
        self._looks: list[dict[str, str]] = []
        self._names: dict[str, None] = {}

    def look(self, now: float, residency: Residency, resident: Callable[[Sequence[Key]], Iterable[bool]]) -> None:
        """Look, unless the last look is recent; `resident` says of each key whether its block is in memory."""
        if self._times and now < self._times[-1] + self._every_s:
            return
        seen = {}
        for context in residency.contexts:
            if not context.chain or (context.id not in self._names and len(self._names) == self._contexts):
                continue
            self._names[context.id] = None
            seen[context.id] = _states(context, residency, resident)
        self._times.append(now)
        self._looks.append(seen)
        if len(self._times) >= 2 * self._samples:
            self._every_s = (self._times[-1] - self._times[0]) / self._samples
            self._times, self._looks = self._times[::2], self._looks[::2]

    def result(self) -> dict[str, Any]:
        """Times in seconds, and for each context a state at each of them: runs of blocks from the head, as in `12r3h`.

        `r` resident, `s` resident and shared by contexts, `h` a hole or a missing tail; None: no such context then.
        """
        return {
            "times_s": [round(at, 3) for at in self._times],
            "contexts": [{"name": name, "states": [look.get(name) for look in self._looks]} for name in self._names],
        }


def _states(context: Context, residency: Residency, resident: Callable[[Sequence[Key]], Iterable[bool]]) -> str:
    owners = residency.contexts.owners
    states = (
        (SHARED if len(owners(key)) > 1 else RESIDENT) if here else HOLE
        for key, here in zip(context.chain, resident(context.chain), strict=True)
    )
    return "".join(f"{len(list(run))}{state}" for state, run in groupby(states))
