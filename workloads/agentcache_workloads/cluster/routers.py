"""Who gets a turn: the service's own decision, and those that it is compared with."""

import random
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import cycle
from typing import Protocol

from agentcache.errors import ConfigError
from agentcache.service.routing.costs import Ledger, Rates, choose
from agentcache.service.routing.homes import Homes

VIRTUAL_NODES = 100
"""Of each replica on the ring of hashes, as many as Serve's own router gives it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A turn that wants a replica. `resident` looks how many of its prompt's tokens each replica would find."""

    id: str
    job: str
    tokens: int
    open: Mapping[str, int]
    resident: Callable[[], Mapping[str, int]]


class Router(Protocol):
    """Chooses, and hears what becomes of what it chose."""

    def choose(self, ask: Ask, now: float) -> str: ...

    def started(self, turn: str, now: float) -> None:
        """The turn has its first token."""

    def finished(self, turn: str, now: float) -> None: ...

    def ended(self, job: str) -> None: ...


class _Deaf:
    """A router that needs to hear nothing."""

    def started(self, turn: str, now: float) -> None: ...

    def finished(self, turn: str, now: float) -> None: ...

    def ended(self, job: str) -> None: ...


class RoundRobin(_Deaf):
    """One replica after the other."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = cycle(names)

    def choose(self, ask: Ask, now: float) -> str:
        return next(self._names)


class ShorterQueue(_Deaf):
    """Of two replicas drawn by chance, the one with fewer open turns: Serve's default."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._names = list(names)
        self._draw = random.Random(f"routers/{seed}")

    def choose(self, ask: Ask, now: float) -> str:
        return min(self._draw.sample(self._names, min(2, len(self._names))), key=lambda name: ask.open[name])


class BySession(_Deaf):
    """A job stays where a ring of hashes has put it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ring = sorted((_hash(f"{name}:{node}"), name) for name in names for node in range(VIRTUAL_NODES))

    def choose(self, ask: Ask, now: float) -> str:
        return self._ring[bisect(self._ring, (_hash(ask.job), "")) % len(self._ring)][1]


class ByResidency:
    """The decision of the service's router, with the ingress's own book of homes and the ledger of open turns.

    `selfish`: what a rebuild costs others on its replica is not looked at. `sticky`: only a job's first turn is decided
    upon, and all others follow it.
    """

    def __init__(self, names: Sequence[str], rates: Rates, selfish: bool = False, sticky: bool = False) -> None:
        self._selfish, self._sticky = selfish, sticky
        self._speeds: dict[str, Rates | None] = dict.fromkeys(names, rates)
        self._ledger = Ledger()
        self._homes = Homes()

    def choose(self, ask: Ask, now: float) -> str:
        # The service tells of jobs that have run, not of what a first prompt shares with others.
        if self._homes.of(ask.job).home:
            self._homes.told(ask.job, dict(ask.resident()), now)
        plan = self._homes.plan(ask.job, ask.tokens)
        others = {} if self._selfish else self._ledger.requests()
        speeds = {plan.home: self._speeds[plan.home]} if plan.home and self._sticky else self._speeds
        choose(plan, self._ledger.waiting_s(), others, speeds)
        assert plan.replica is not None
        self._ledger.open[ask.id] = plan
        return plan.replica

    def started(self, turn: str, now: float) -> None:
        plan = self._ledger.open[turn]
        assert plan.replica is not None
        plan.started = True
        self._homes.served(plan.job, plan.replica, plan.tokens, now)

    def finished(self, turn: str, now: float) -> None:
        del self._ledger.open[turn]

    def ended(self, job: str) -> None:
        self._homes.ended(job)


def make_router(name: str, names: Sequence[str], rates: Rates, seed: int) -> Router:
    """A router by name; raises `ConfigError` for another one."""
    makers: dict[str, Callable[[], Router]] = {
        "residency": lambda: ByResidency(names, rates),
        "residency-selfish": lambda: ByResidency(names, rates, selfish=True),
        "residency-sticky": lambda: ByResidency(names, rates, sticky=True),
        "default": lambda: ShorterQueue(names, seed),
        "session": lambda: BySession(names),
        "round-robin": lambda: RoundRobin(names),
    }
    if name not in makers:
        raise ConfigError(f"router {name!r} is unknown, expected one of {', '.join(makers)}; nothing was run")
    return makers[name]()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
