"""Admission by working set: which jobs take turns at once, so that their contexts fit the pool together.

`choose` is the rule, worked out from nothing. A host that asks in every step keeps its answer as jobs come and go
(`residency/fitting.py`), and asks the rule itself where tenants have floors; a test holds both to the same answers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, get_args

from agentcache.errors import ConfigError
from agentcache.policy.admission.chains import Chain, ChainTree
from agentcache.policy.admission.footing import ONE_GROUP, Footing

Order = Literal["turn", "program", "retained", "resident"]
"""Which of the turns that may run goes first, after their priority where that counts.

`turn`: the one that came first. `program`: that of the job that came first. `retained`: the same, but first come those
whose context is retained. `resident`: the one with the largest resident share of its prompt. The last two and
`program` resume preempted turns first.
"""


@dataclass(frozen=True, slots=True)
class WorkingSetConfig:
    """What the rule may be told.

    `order`: see `Order`. `priority`: whether turns' own priorities come first although the engine's own order is not by
    them: hosts tell them then, and where it is. `footprints`: whether the jobs that take turns must fit the pool;
    without, only the order is left. A paused job gives up its place `release_s` after its last turn; by default
    (None) when P(return within `window_s` seconds) falls below `theta`, at most `max_release_s` after it, which
    also holds until enough pauses were seen. `headroom`: share of the pool left free. `growth_quantile`: of the
    growth of past turns, what the next one is granted. `max_hold_s`: after which a held turn runs whatever fits.
    `floors`: tenants with the share of the pool that is theirs first.
    """

    order: Order = "program"
    priority: bool = False
    footprints: bool = True
    release_s: float | None = None
    window_s: float = 60.0
    theta: float = 0.2
    max_release_s: float = 60.0
    headroom: float = 0.05
    growth_quantile: float = 0.75
    max_hold_s: float = 1800.0
    floors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        fine = {
            "order": self.order in get_args(Order),
            "release_s": self.release_s is None or self.release_s >= 0,
            "window_s": self.window_s > 0,
            "theta": 0 < self.theta <= 1,
            "max_release_s": self.max_release_s >= 0,
            "headroom": 0 <= self.headroom < 1,
            "growth_quantile": 0 <= self.growth_quantile <= 1,
            "max_hold_s": self.max_hold_s > 0,
            "floors": all(share > 0 for _, share in self.floors) and sum(share for _, share in self.floors) <= 1,
        }
        if wrong := [name for name, ok in fine.items() if not ok]:
            given = ", ".join(f"{name} {getattr(self, name)}" for name in wrong)
            raise ConfigError(
                f"admission 'working-set': {given} is out of range; nothing was started",
                hint=f"order one of {', '.join(get_args(Order))}; times >= 0, window_s and max_hold_s > 0; "
                "0 < theta <= 1; 0 <= headroom < 1; 0 <= growth_quantile <= 1; floors > 0, together at most 1",
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live job: it has a turn queued or running, or is expected back soon.

    `order` is its place (smaller first): priority, then arrival. `chains` are the keys of its contexts and of its
    queued prompts, each a context to the pool; the next turns may add `growth_keys`, and of `left_keys` the last or
    present ones leave something behind. `held_s` is how long its oldest queued turn has waited for admission, 0 if none
    does; `turns` says that it has a turn queued or running. `excused`: it joins regardless, because members that could
    have run did not. A tenant is who a floor belongs to.
    """

    job: str
    order: tuple[float, ...]
    chains: Sequence[Chain]
    growth_keys: int = 0
    held_s: float = 0.0
    turns: bool = True
    excused: bool = False
    tenant: str = ""
    left_keys: int = 0


Excuse = Literal["alone", "bound", "idle"]
"""Why a job is in although the sum does not fit: it is larger than the limit and runs alone, its hold has reached its
bound, or nobody before it could run."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is in, with how many blocks; why each of the others is not; who is in although the sum does not fit."""

    members: tuple[str, ...] = ()
    used_blocks: int = 0
    held: dict[str, str] = field(default_factory=dict)
    exceptions: dict[str, Excuse] = field(default_factory=dict)


_place = attrgetter("order", "job")


class _Part:
    """A part of the pool with `room` blocks, filled in order: the first job that does not fit ends it."""

    def __init__(self, room: float, footing: Footing) -> None:
        self.room = room
        self.used = 0
        self.jobs = 0
        self.full = False
        self._footing = footing
        self._growth_keys = 0
        self._contexts = 0
        self._left_keys = 0
        self._tree = ChainTree()

    def need(self, candidate: Candidate) -> int:
        """Blocks that a job would add; what it shares, also among its own contexts, counts once."""
        if len(candidate.chains) == 1:
            new = self._tree.new(candidate.chains[0])
        else:
            own = ChainTree()
            new = sum(min(own.add(chain), self._tree.new(chain)) for chain in candidate.chains)
        return self._with(candidate, new) - self.used

    def _with(self, candidate: Candidate, new_keys: int) -> int:
        """Blocks that are used with a job whose chains add so many keys."""
        return self._footing.blocks(
            self._tree.blocks + new_keys + self._growth_keys + candidate.growth_keys,
            self._contexts + len(candidate.chains),
            self._left_keys + candidate.left_keys,
        )

    def fits(self, candidate: Candidate) -> bool:
        self.full = self.full or self.used + self.need(candidate) > self.room
        return not self.full

    def add(self, candidate: Candidate) -> None:
        for chain in candidate.chains:
            self._tree.add(chain)
        self.used = self._with(candidate, 0)
        self._growth_keys += candidate.growth_keys
        self._contexts += len(candidate.chains)
        self._left_keys += candidate.left_keys
        self.jobs += 1


def choose(
    candidates: Iterable[Candidate], capacity_blocks: int, config: WorkingSetConfig, footing: Footing = ONE_GROUP
) -> Choice:
    """Apply the rule to the live jobs.

    In their order, jobs join while the sum of their footprints fits the pool less the headroom; the first that does
    not fit ends the set, so that taking a job out never removes another member. The first job is always a member.
    Shared keys count once; `footing` says what keys and contexts take. Whatever the sum says, a job held for longer
    than `max_hold_s` joins, and when all members are paused, so does the first job that has a turn: an idle engine
    serves nobody.

    A tenant with a floor first fills its own share of the pool, in the same way; what it does not use is everybody's.
    What its further jobs share with those on the floor counts again.
    """
    limit = footing.room(capacity_blocks, config.headroom)
    floors = {tenant: _Part(share * limit, footing) for tenant, share in config.floors}
    members: list[str] = []
    competing: list[Candidate] = []
    busy = False
    for candidate in sorted(candidates, key=_place):
        floor = floors.get(candidate.tenant) if floors else None
        if floor and floor.fits(candidate):
            floor.add(candidate)
            members.append(candidate.job)
            busy = busy or candidate.turns
        else:
            competing.append(candidate)

    # A floor that is full is kept as a whole, so that who leaves it leaves no less to the others.
    rest = _Part(limit - sum(floor.room if floor.full else floor.used for floor in floors.values()), footing)
    held: dict[str, str] = {}
    exceptions: dict[str, Excuse] = {}
    taken = ""  # of the rest, as those are told that do not fit
    for candidate in competing:
        if rest.full or not rest.fits(candidate):  # behind the first that does not fit there may be thousands
            if not rest.jobs:
                exceptions[candidate.job] = "alone"
            elif candidate.held_s > config.max_hold_s:
                exceptions[candidate.job] = "bound"
            elif candidate.excused or (candidate.turns and not busy):
                exceptions[candidate.job] = "idle"
            else:
                taken = taken or f"{rest.used} of {int(rest.room)} are taken by {rest.jobs} jobs before it"
                if held:
                    held[candidate.job] = f"{len(held)} jobs that came before it wait; {taken}"
                else:
                    held[candidate.job] = f"needs {rest.need(candidate)} blocks, {taken}"
                continue
        rest.add(candidate)
        taken = ""
        members.append(candidate.job)
        busy = busy or candidate.turns
    used = rest.used + sum(floor.used for floor in floors.values())
    return Choice(tuple(members), used, held, exceptions)
