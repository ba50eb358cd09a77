"""Where jobs' contexts are, as far as an ingress knows: what it saw itself, corrected by what the service tells it."""

from collections import OrderedDict
from dataclasses import dataclass, field

from agentcache.errors import CheckFailed
from agentcache.service.routing.call import Plan

FRESH_S = 2.0
"""What engines report has reached us after so long."""

COPIES = 16
"""Replicas that a job is believed to have something on, at most: the latest."""

LOST = 1024
"""Replicas that are known to be lost, at most: their names do not come back, but those who hold them do."""


@dataclass(slots=True)
class Whereabouts:
    """Of one job: the replica that served it last, and the tokens that each replica is believed to hold."""

    home: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    served_at: float = 0.0


class Homes:
    """Whereabouts by job, at most `capacity` of them; those unused for longest are forgotten."""

    def __init__(self, capacity: int = 65_536) -> None:
        self.capacity = capacity
        self._jobs: OrderedDict[str, Whereabouts] = OrderedDict()
        self._lost: OrderedDict[str, None] = OrderedDict()

    def of(self, job: str) -> Whereabouts:
        """What is known of the job, which is nothing for a new one."""
        known = self._jobs.get(job, Whereabouts())
        tokens = {replica: held for replica, held in known.tokens.items() if replica not in self._lost}
        return Whereabouts(None if known.home in self._lost else known.home, tokens, known.served_at)

    def plan(self, job: str, tokens: int, source: str = "", tree: str | None = None) -> Plan:
        """A turn of the job, of so many tokens, by what is known of the job now.

        Of an agent that is new in a tree, no more is known than where the tree is at home.
        """
        known = self.of(job)
        home = self.of(tree).home if tree and job not in self._jobs else known.home
        return Plan(tokens, known.tokens, home, job, source)

    def served(self, job: str, replica: str, tokens: int, now: float) -> None:
        """A turn of so many tokens has begun to answer on a replica: they are all there now."""
        known = self._jobs.get(job, Whereabouts())
        known.home, known.served_at = replica, now
        known.tokens.pop(replica, None)
        known.tokens[replica] = tokens
        if len(known.tokens) > COPIES:
            del known.tokens[next(iter(known.tokens))]
        self._lost.pop(replica, None)
        self._know(job, known)

    def told(self, job: str, tokens: dict[str, int], now: float) -> None:
        """The service says how many tokens of a job each replica holds: old news while a turn is fresh.

        Of a job that this ingress has not served, it is all there is: what holds most of it is its home.
        """
        known = self._jobs.get(job)
        if known is None and any(tokens.values()):
            self._know(job, Whereabouts(max(tokens, key=tokens.__getitem__), tokens))
        elif known and now - known.served_at > FRESH_S:
            known.tokens = tokens

    def lost(self, replica: str) -> None:
        """A replica is gone, and all that it held, until it serves again."""
        self._lost[replica] = None
        if len(self._lost) > LOST:
            self._lost.popitem(last=False)

    def ended(self, job: str) -> None:
        self._jobs.pop(job, None)

    def _know(self, job: str, known: Whereabouts) -> None:
        self._jobs[job] = known
        self._jobs.move_to_end(job)
        if len(self._jobs) > self.capacity:
            self._jobs.popitem(last=False)

    def __len__(self) -> int:
        return len(self._jobs)

    def check(self) -> None:
        """Raise `CheckFailed` if there is more than allowed, or a count below zero."""
        if len(self._jobs) > self.capacity or len(self._lost) > LOST:
            raise CheckFailed(f"{len(self._jobs)} jobs are remembered, {self.capacity} are allowed")
        for job, known in self._jobs.items():
            if any(count < 0 for count in known.tokens.values()):
                raise CheckFailed(f"job {job} holds {known.tokens} tokens")
