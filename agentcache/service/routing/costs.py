"""What a request would wait, and cost all, on each replica: the numbers that the router ranks by."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from agentcache.service.routing.call import Plan

TIE = 0.05
"""Costs within this share of the best are equal: then the job's home decides."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Prefill on one replica: c_lin seconds a token, c_att seconds a token squared of the causal pair term."""

    c_lin: float = 1e-5
    c_att: float = 0.0

    def rebuild_s(self, tokens: int, resident: int) -> float:
        """Seconds to compute a prompt of which the first `resident` tokens are there."""
        known = min(resident, tokens)
        return self.c_lin * (tokens - known) + self.c_att * (tokens**2 - known**2)


@dataclass(slots=True)
class Ledger:
    """The requests on their way from here, by request id; those of other ingresses come with a replica's statistics."""

    open: dict[str, Plan] = field(default_factory=dict)

    def forget(self) -> None:
        """Drop the requests that have ended: what stays is open, or has ended since this was last called."""
        for request in [request for request, plan in self.open.items() if plan.ended]:
            del self.open[request]

    def waiting_s(self) -> defaultdict[str, float]:
        """Expected prefill seconds before a new request on each replica: of requests without a first token."""
        waits: defaultdict[str, float] = defaultdict(float)
        for plan in self.open.values():
            if plan.replica is not None and not plan.started:
                waits[plan.replica] += plan.rebuild_s
        return waits

    def requests(self) -> Counter[str]:
        """Requests on each replica, those that wait and those that have begun to answer."""
        return Counter(plan.replica for plan in self.open.values() if plan.replica is not None)


def elsewhere(stats: Mapping[str, Any], what: str, source: str) -> float:
    """Of what a replica reports by ingress, the part that others than `source` have sent."""
    told = stats.get(what)
    return sum(amount for name, amount in told.items() if name != source) if isinstance(told, dict) else 0.0


def rates(stats: Mapping[str, Any]) -> Rates | None:
    """The rates that a replica reports; None before it has."""
    given = stats.get("rates")
    return Rates(*given) if given else None


def choose(
    plan: Plan, waits: Mapping[str, float], others: Mapping[str, float], speeds: Mapping[str, Rates | None]
) -> list[list[str]]:
    """The replicas that `speeds` names, ranked for a request by what it costs; the first one is written into its plan.

    That is the seconds until its own first token, and those for which its rebuild keeps others on the replica from
    their tokens: without these, a turn would leave its context behind to save itself a shorter wait than the work it
    makes. `waits`: expected prefill seconds before it on each; `others`: open requests there. A replica that has not
    said how fast it is (None) is taken to be as fast as another.
    """
    usual = next(filter(None, speeds.values()), Rates())
    rebuilds = {
        name: (speed or usual).rebuild_s(plan.tokens, plan.resident.get(name, 0)) for name, speed in speeds.items()
    }
    ranks = ranked(plan, {name: waits.get(name, 0) + s * (1 + others.get(name, 0)) for name, s in rebuilds.items()})
    if ranks:
        plan.replica = ranks[0][0]
        plan.rebuild_s = rebuilds[plan.replica]
    return ranks


def ranked(plan: Plan, costs: Mapping[str, float]) -> list[list[str]]:
    """Replicas in ranks of equal cost, cheapest first.

    Where several are equal, the job's home stands alone and first; a job without one gets one by its name, so that
    contexts spread. Replicas to be avoided come last, for they may be all there is.
    """
    ranks = list(_ranks([name for name in costs if name not in plan.avoid], costs, plan))
    if rest := [name for name in costs if name in plan.avoid]:
        ranks.append(rest)
    return ranks


def _ranks(names: Iterable[str], costs: Mapping[str, float], plan: Plan) -> Iterator[list[str]]:
    left = sorted(names, key=lambda name: costs[name])
    while left:
        best = costs[left[0]]
        equal = [name for name in left if costs[name] <= best * (1 + TIE)]
        left = left[len(equal) :]
        first = plan.home if plan.home in equal else max(equal, key=lambda name: affinity(plan.job, name))
        yield [first]
        equal.remove(first)
        if equal:
            yield equal


def affinity(job: str, replica: str) -> bytes:
    """Of equal replicas a new job goes to that with the most (rendezvous hashing); names that are alike spread too."""
    return blake2b(f"{job} {replica}".encode(), digest_size=8).digest()
