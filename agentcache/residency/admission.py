"""Admission in a host: which of the queued turns may run now, and in what order, by the jobs they belong to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from agentcache.errors import CheckFailed
from agentcache.model import Context, Decision, Hold, Join, Key, Standing, shared
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.working_set import Choice, Excuse, WorkingSetConfig, choose
from agentcache.policy.survival import Survival
from agentcache.residency.contexts import ContextBook
from agentcache.residency.fitting import Prefix
from agentcache.residency.live_jobs import LiveJob, LiveJobs, OpenTurn
from agentcache.residency.resident_shares import ResidentShares

HoldEnd = str
"""`joined`: its job became a member; `bound`: it ran although it did not fit; `aborted`: the client left."""


@dataclass(slots=True)
class AdmissionCounts:
    """What happened so far, for metrics. `held_s` adds up the seconds of all ended holds."""

    holds: int = 0  # turns held
    joins: int = 0  # of these, that ran as their job became a member
    expired: int = 0  # jobs that ran because a hold reached its bound
    alone: int = 0  # jobs that ran alone because they are larger than the limit
    idle: int = 0  # jobs that ran because nobody else could
    aborted: int = 0  # clients that left while held
    released: int = 0  # paused jobs that gave up their place
    false_ends: int = 0  # turns of jobs that had said that they ended
    clashes: int = 0  # open turns of one context that contradict each other: an id that two clients use
    resizes: int = 0
    held_s: float = 0.0


class InForce:
    """The choice that is in force, as `Choice`; who is in is said when asked for, it may be thousands."""

    def __init__(self, prefix: Prefix, held: dict[str, str]) -> None:
        self._prefix = prefix
        self.held = held
        self.exceptions = dict(prefix.extra)

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self._prefix)

    @property
    def used_blocks(self) -> int:
        return self._prefix.blocks


class WorkingSetAdmission:
    """Applies the rule to the live jobs whenever an event or the clock may have changed its outcome.

    `version` changes when a rank may have. `on_hold_end(turn, end, seconds)` hears of every hold that is over;
    `is_retained(context)` is asked under the order `retained`, and `retained_version()`, where there is one, whether
    its answers may have changed.
    """

    def __init__(
        self,
        config: WorkingSetConfig,
        capacity_blocks: int,
        contexts: ContextBook,
        survival: Survival | None = None,
        footing: Footing = ONE_GROUP,
    ) -> None:
        self.config = config
        self.footing = footing
        self.capacity_blocks = capacity_blocks
        self.lent_blocks = 0  # room that a tier lends
        self.choice: Choice | InForce = Choice()
        self.counts = AdmissionCounts()
        self.version = 0
        self.on_hold_end: Callable[[str, HoldEnd, float], None] = lambda turn, end, seconds: None
        self.is_retained: Callable[[Context], bool] = lambda context: False
        self.retained_version: Callable[[], int] | None = None
        self._retained_version = 0
        self._held_turns = 0
        self._changed_jobs: dict[str, LiveJob] = {}  # of which turns came or were preempted since the last choice
        self.shares = ResidentShares() if config.order == "resident" else None
        self._live = LiveJobs(config, contexts, survival, footing)
        self._prefix = self._live.prefix
        self._by_rule = bool(config.floors)  # each part of the pool has an order of its own then
        self._in: set[str] = set()  # members, as of the last choice
        self._held: dict[str, str] = {}  # and the others, with why
        self._stale = True
        self._until = 0.0  # the clock alone changes nothing before

    # Events

    def arrived(self, turn: str, context: Context, keys: tuple[Key, ...], order_key: int, now: float) -> None:
        """A turn is queued, its context as it was before; `order_key` as vLLM's priority: lower is earlier."""
        if context.chain and len(context.turns) > 1:  # a retry has the same prompt, a client's next turn a longer one
            self.counts.clashes += shared(context.chain, keys) < min(len(context.chain), len(keys))
        self.counts.false_ends += context.standing is Standing.ENDED
        job = self._live.arrived(turn, context, keys, order_key, now)
        if self.shares:
            self.shares.add(turn, keys)
        self._changed(job)

    def scheduled(self, turn: str, tokens: int, cached: int, now: float) -> None:
        """A turn has its blocks: `cached` of its `tokens` were resident."""
        if found := self._live.turns.get(turn):
            self._end_hold(turn, found, "joined", now)
            computed_keys = ceil(len(found.keys) * max(tokens - cached, 0) / max(tokens, 1))
            self._stale |= self.footing.left_blocks > 0 and computed_keys != found.computed_keys
            found.computed_keys = computed_keys
            found.queued_at, found.preempted = None, False
            self._live.outdate(found.job)
            if self.shares:
                self.shares.remove(turn)

    def preempted(self, turn: str, now: float) -> None:
        """A turn lost its blocks and is queued again."""
        if found := self._live.turns.get(turn):
            found.queued_at, found.preempted = now, True
            if self.shares:
                self.shares.add(turn, found.keys)
            self._live.outdate(found.job)
            self._changed(found.job)

    def closed(self, turn: str, now: float, final_blocks: int | None = None) -> None:
        """A turn is over, with `final_blocks` full blocks in its context if it finished."""
        if (gone := self._live.turns.get(turn)) is None:
            return
        self._end_hold(turn, gone, "aborted", now)
        self._live.closed(turn, gone, final_blocks)
        if self.shares:
            self.shares.remove(turn)
        self._stale = True  # and nobody's rank is another one

    def ended(self, name: str) -> None:
        """A job is known to have ended: its contexts say so."""
        if job := self._live.by_name.get(name):
            self._live.outdate(job)
            self._stale = True

    def forgot(self, context: Context) -> None:
        """The book has forgotten a context."""
        if job := self._live.by_name.get(context.job):
            self._live.outdate(job)

    def resized(self, capacity_blocks: int) -> None:
        """The pool has another size from now on."""
        self.capacity_blocks = capacity_blocks
        self.counts.resizes += 1
        self._stale = True

    def lend(self, blocks: int) -> None:
        """Contexts may take so many blocks more than the pool has: what a tier holds of them is soon back."""
        self._stale |= blocks != self.lent_blocks
        self.lent_blocks = blocks

    @property
    def _room_blocks(self) -> int:
        return self.capacity_blocks + self.lent_blocks

    def stored(self, keys: Iterable[Key]) -> None:
        """Blocks with these keys are resident now."""
        if self.shares and self.shares.stored(keys):
            self.version += 1

    def evicted(self, keys: Iterable[Key]) -> None:
        """Blocks with these keys are gone."""
        if self.shares and self.shares.evicted(keys):
            self.version += 1

    def stalled(self) -> None:
        """Nothing runs although turns wait: members cannot, for a reason that only the host knows."""
        waiting = self.choice.held if self._by_rule else self._prefix.beyond
        first = next((name for name in waiting if name in self._held and name in self._live.by_name), None)
        if first and not self._live.excused:  # one at a time
            self._live.excused.add(first)
            self._stale = True

    def _changed(self, job: LiveJob) -> None:
        if self.config.footprints:  # else no choice is ever made that takes them away
            self._changed_jobs[job.name] = job
        self._stale = True
        self.version += 1

    # The rule

    def may_run(self, turn: str) -> bool:
        """Whether a queued turn is a member's; a turn nobody told us of may run."""
        found = self._live.turns.get(turn)
        return found is None or found.job.name not in self.choice.held

    def holds(self, job: str) -> bool:
        """Whether turns of a job wait, as of the last choice."""
        return job in self._held

    def rank(self, turn: str) -> tuple[float, ...]:
        """The place of a turn among those that may run; ties are the host's to break, first come first served."""
        found = self._live.turns.get(turn)
        if found is None:
            return ()
        if self.config.order == "turn":
            return (found.order_key,)
        if self.config.order == "resident":
            assert self.shares
            return (found.order_key, not found.preempted, -self.shares.of(turn))
        priority, arrival = found.job.order
        if self.config.order == "retained":
            return (priority, not found.preempted, not self.is_retained(found.context), arrival)
        return (priority, not found.preempted, arrival)

    def decide(self, now: float) -> list[Decision]:
        """Apply the rule if its outcome may have changed; returns who joined and who is held that was not before."""
        if self.config.order == "retained":  # leases run out by themselves
            before_version, self._retained_version = self._retained_version, self._ask_retained_version()
            self.version += before_version != self._retained_version
        if not self.config.footprints:
            return []
        self._stale |= self._live.curves_moved()
        if not self._stale and now < self._until:
            return []
        self.counts.released += self._live.look_again(now)
        before = self.choice.exceptions
        extra, held = self._apply(now)
        self._stale, self._until = self._live.unfinished, self._live.next
        return self._announce(before, extra, held, now)

    def _ask_retained_version(self) -> int:
        return self.retained_version() if self.retained_version else self._retained_version + 1

    def _apply(self, now: float) -> tuple[dict[str, Excuse], dict[str, str]]:
        """The rule: who is in although the sum does not fit, and who is held that was not before, with why.

        As `choose` says it of all live jobs, without a look at those of which nothing has changed.
        """
        if self._by_rule:
            return self._apply_rule(now)
        prefix, room = self._prefix, self.footing.room(self._room_blocks, self.config.headroom)
        prefix.balance(room)
        taken = f"{prefix.blocks} of {int(room)} are taken by {len(prefix)} jobs before it"
        extra = self._extra()
        prefix.take(extra)
        held = {}
        for name in sorted((name for name in prefix.moved if name in self._live.by_name), key=prefix.place):
            if name not in prefix and name not in self._held:
                number = prefix.number(name)
                first = f"needs {prefix.wanted} blocks, {taken}"
                held[name] = f"{number} jobs that came before it wait; {taken}" if number else first
        return extra, held

    def _extra(self) -> dict[str, Excuse]:
        """Of those that do not fit, who is in all the same."""
        live, prefix, extra = self._live, self._prefix, dict[str, Excuse]()
        alone, busy = prefix.alone, prefix.busy
        names = {name for name in (alone, *live.overdue, *live.excused) if name}
        if not busy and (first := next((name for name in prefix.beyond if live.by_name[name].turns), None)):
            names.add(first)
        for name in sorted((name for name in names if name not in prefix), key=prefix.place):
            turns = bool(live.by_name[name].turns)
            if name == alone:
                extra[name] = "alone"
            elif name in live.overdue:
                extra[name] = "bound"
            elif name in live.excused or (turns and not busy):
                extra[name] = "idle"
            else:
                continue
            busy = busy or turns
        return extra

    def _apply_rule(self, now: float) -> tuple[dict[str, Excuse], dict[str, str]]:
        """The same by going through all live jobs."""
        self.choice = choice = choose(self._live.candidates(now), self._room_blocks, self.config, self.footing)
        self._prefix.moved |= {*choice.members, *choice.held, *self._in, *self._held}
        return choice.exceptions, {name: why for name, why in choice.held.items() if name not in self._held}

    def _announce(
        self, before: Mapping[str, str], extra: Mapping[str, Excuse], held: Mapping[str, str], now: float
    ) -> list[Decision]:
        """Put the choice in force, and count what it changes; returns who joined and who is held."""
        counts = self.counts
        for name, excuse in extra.items():
            if before.get(name) != excuse:
                counts.expired += excuse == "bound"
                counts.alone += excuse == "alone"
                counts.idle += excuse == "idle"
        members = set(self.choice.members) if self._by_rule else self._prefix
        live, joined = self._live.by_name, []
        other = bool(held) or before != extra
        for name in sorted(self._prefix.moved):
            is_in = name in members
            if is_in and name not in self._in:
                joined.append(name)
            (self._in.add if is_in else self._in.discard)(name)
            if is_in or name not in live:
                other |= self._held.pop(name, None) is not None
        self._held |= held
        self._prefix.moved.clear()
        if not self._by_rule and (other or isinstance(self.choice, Choice)):
            self.choice = InForce(self._prefix, self._held)
        # Turns of all others are held, or not, as they were.
        moved = {name: None for names in (self._changed_jobs, joined, held) for name in names}
        self._changed_jobs = {}
        for job in [live[name] for name in moved if name in live]:
            is_held = job.name in self._held
            end = "bound" if extra.get(job.name) == "bound" else "joined"
            for name, turn in job.turns.items():
                if not is_held:
                    self._end_hold(name, turn, end, now)
                elif turn.queued_at is not None and turn.held_since is None:
                    turn.held_since = now
                    self._held_turns += 1
                    counts.holds += 1
        return [*map(Join, joined), *(Hold(name, reason) for name, reason in held.items())]

    def _end_hold(self, name: str, turn: OpenTurn, end: HoldEnd, now: float) -> None:
        if turn.held_since is None:
            return
        seconds = now - turn.held_since
        turn.held_since = None
        self._held_turns -= 1
        turn.held_s += seconds
        self.counts.held_s += seconds
        self.counts.joins += end == "joined"
        self.counts.aborted += end == "aborted"
        self.on_hold_end(name, end, seconds)

    # Looking

    @property
    def held_turns(self) -> int:
        """Turns that wait because the rule says so."""
        return self._held_turns

    def held_s(self, turn: str, now: float) -> float:
        """For how many seconds the rule has held a turn so far; 0 for a turn that is not open."""
        if (found := self._live.turns.get(turn)) is None:
            return 0.0
        return found.held_s + (0.0 if found.held_since is None else now - found.held_since)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        if both := self._in & self._held.keys():
            raise CheckFailed(f"jobs {sorted(both)} are members and held at once")
        held = sum(turn.held_since is not None for turn in self._live.turns.values())
        if held != self._held_turns:
            raise CheckFailed(f"{held} turns are held, {self._held_turns} are counted")
        self._live.check()
        if self.shares:
            self.shares.check()
