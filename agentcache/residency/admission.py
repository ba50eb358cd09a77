"""Admission in a host: which of the queued turns may run now, and in what order, by the jobs they belong to."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from agentcache.errors import CheckFailed
from agentcache.model import Context, Decision, Hold, Join, Key, Standing, shared
from agentcache.policy.admission.growth import GrowthWindow
from agentcache.policy.admission.working_set import Candidate, Choice, Excuse, WorkingSetConfig, choose
from agentcache.policy.survival import Survival
from agentcache.residency.contexts import ContextBook
from agentcache.residency.deadlines import Deadlines
from agentcache.residency.footprints import Footprint
from agentcache.residency.prefix import Prefix
from agentcache.residency.resident_shares import ResidentShares

AT_ONCE = 8
"""Jobs that are looked at in one step because curves have changed: there may be thousands."""

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


@dataclass(slots=True)
class _Turn:
    """A turn that is queued (`queued_at` in seconds) or running (None); `keys` are those of its prompt."""

    job: "_Job"
    context: Context
    keys: tuple[Key, ...]
    order_key: int
    queued_at: float | None
    preempted: bool = False
    held_since: float | None = None
    held_s: float = 0.0


@dataclass(slots=True)
class _Job:
    """`order` is the job's place: the smallest order key of its open turns, then its arrival.

    `turns` are queued or running, `resting` are the contexts that were left by their last turn. The oldest turn that
    waits does so since `queued_at`; the first resting context gives up its place at `release_at`.
    """

    name: str
    order: tuple[float, ...]
    turns: dict[str, _Turn] = field(default_factory=dict)
    resting: dict[Context, None] = field(default_factory=dict)
    queued_at: float = math.inf
    release_at: float = math.inf

    @property
    def chains(self) -> list[tuple[Key, ...]]:
        """Keys of its open turns and of what rests."""
        return [*(turn.keys for turn in self.turns.values()), *(context.chain for context in self.resting)]


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
    """Keeps the live jobs and applies the rule whenever an event or the clock may have changed its outcome.

    `version` changes when a rank may have. `on_hold_end(turn, end, seconds)` hears of every hold that is over;
    `is_retained(context)` is asked under the order `retained`, and `retained_version()`, where a host gives it, whether
    its answers may have changed.
    """

    def __init__(
        self,
        config: WorkingSetConfig,
        capacity_blocks: int,
        contexts: ContextBook,
        survival: Survival | None = None,
    ) -> None:
        self.config = config
        self.capacity_blocks = capacity_blocks
        self.choice: Choice | InForce = Choice()
        self.counts = AdmissionCounts()
        self.version = 0
        self.on_hold_end: Callable[[str, HoldEnd, float], None] = lambda turn, end, seconds: None
        self.is_retained: Callable[[Context], bool] = lambda context: False
        self.retained_version: Callable[[], int] | None = None
        self._retained_version = 0
        self._held_turns = 0
        self._changed_jobs: dict[str, _Job] = {}  # of which turns came, were preempted or excused since the last choice
        self.shares = ResidentShares() if config.order == "resident" else None
        self._contexts = contexts
        self._survival = survival
        self._jobs: dict[str, _Job] = {}  # with an order, as long as the book knows them
        self._live: dict[str, _Job] = {}  # with a turn, or expected back soon
        self._turns: dict[str, _Turn] = {}
        self._arrivals = 0
        self._sweep_at = 64
        self._replies = GrowthWindow(config.growth_quantile)  # from a prompt to the end of its output
        self._inputs = GrowthWindow(config.growth_quantile)  # from there to the next prompt
        self._prefix = Prefix(self._replies, self._inputs)
        self._by_rule = bool(config.floors)  # each part of the pool has an order of its own then
        self._outdated: dict[str, _Job] = {}  # live jobs to be looked at again
        self._later: dict[str, _Job] = {}  # live jobs to be looked at in time: curves have changed, by which they wait
        self._releases = Deadlines()  # of jobs, whose first resting context gives up its place then
        self._bounds = Deadlines()  # of jobs, whose oldest turn has waited for too long then
        self._overdue: set[str] = set()
        self._excused: set[str] = set()  # until their turns are over, they run whatever fits
        self._in: set[str] = set()  # members, as of the last choice
        self._held: dict[str, str] = {}  # and the others, with why
        self._stale = True
        self._until = 0.0  # the clock alone changes nothing before
        self._generation = -1  # of the survival curves

    # Events

    def arrived(self, turn: str, context: Context, keys: tuple[Key, ...], order_key: int, now: float) -> None:
        """A turn is queued, its context as it was before; `order_key` as vLLM's priority: lower is earlier."""
        job = self._jobs.get(context.job)
        if job is None:
            self._sweep()
            self._arrivals += 1
            job = self._jobs[context.job] = _Job(context.job, (order_key, self._arrivals))
        urgency = min(job.order[0], order_key) if job.turns else order_key
        job.order = (urgency, job.order[1])
        if context.chain:
            if len(context.turns) > 1:  # a retry has the same prompt, a client's next turn a longer one
                self.counts.clashes += shared(context.chain, keys) < min(len(context.chain), len(keys))
            self._inputs.add(context.standing, max(len(keys) - len(context.chain), 0))
        self.counts.false_ends += context.standing is Standing.ENDED
        job.resting.pop(context, None)
        job.turns[turn] = self._turns[turn] = _Turn(job, context, keys, order_key, now)
        self._live[context.job] = job
        if self.shares:
            self.shares.add(turn, keys)
        self._changed(job)

    def scheduled(self, turn: str, now: float) -> None:
        """A turn has its blocks."""
        if found := self._turns.get(turn):
            self._end_hold(turn, found, "joined", now)
            found.queued_at, found.preempted = None, False
            self._outdate(found.job)
            if self.shares:
                self.shares.remove(turn)

    def preempted(self, turn: str, now: float) -> None:
        """A turn lost its blocks and is queued again."""
        if found := self._turns.get(turn):
            found.queued_at, found.preempted = now, True
            if self.shares:
                self.shares.add(turn, found.keys)
            self._changed(found.job)

    def closed(self, turn: str, now: float, final_blocks: int | None = None) -> None:
        """A turn is over, with `final_blocks` full blocks in its context if it finished."""
        if (gone := self._turns.pop(turn, None)) is None:
            return
        self._end_hold(turn, gone, "aborted", now)
        job = gone.job
        del job.turns[turn]
        if self.config.footprints and gone.queued_at is None:  # who leaves while it waits is not expected back
            job.resting[gone.context] = None
        if not job.turns:
            self._excused.discard(job.name)
            if not job.resting:
                self._leave(job)
        if final_blocks is not None:
            self._replies.add(gone.context.standing, max(final_blocks - len(gone.keys), 0))
        if self.shares:
            self.shares.remove(turn)
        self._outdate(job)  # nobody's rank is another one
        self._stale = True

    def ended(self, name: str) -> None:
        """A job is known to have ended: its contexts say so."""
        if job := self._live.get(name):
            self._outdate(job)
            self._stale = True

    def forgot(self, context: Context) -> None:
        """The book has forgotten a context."""
        if job := self._live.get(context.job):
            self._outdate(job)

    def resized(self, capacity_blocks: int) -> None:
        """The pool has another size from now on."""
        self.capacity_blocks = capacity_blocks
        self.counts.resizes += 1
        self._stale = True

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
        first = next((name for name in waiting if name in self._held and name in self._live), None)
        if first and not self._excused:  # one at a time
            self._excused.add(first)
            self._stale = True

    def _outdate(self, job: _Job) -> None:
        """Something of the job is no longer as the rule was told."""
        if self._live.get(job.name) is job:
            self._outdated[job.name] = job

    def _leave(self, job: _Job) -> None:
        """The job is not live any more."""
        del self._live[job.name]
        self._outdated.pop(job.name, None)
        self._excused.discard(job.name)
        self._overdue.discard(job.name)
        self._releases.add(math.inf, job.name)
        self._bounds.add(math.inf, job.name)
        self._prefix.drop(job.name)

    def _changed(self, job: _Job) -> None:
        self._outdate(job)
        if self.config.footprints:  # else no choice is ever made that takes them away
            self._changed_jobs[job.name] = job
        self._stale = True
        self.version += 1

    # The rule

    def may_run(self, turn: str) -> bool:
        """Whether a queued turn is a member's; a turn nobody told us of may run."""
        found = self._turns.get(turn)
        return found is None or found.job.name not in self.choice.held

    def rank(self, turn: str) -> tuple[float, ...]:
        """The place of a turn among those that may run; ties are the host's to break, first come first served."""
        found = self._turns.get(turn)
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
        if self._survival and self._survival.generation != self._generation:
            self._generation = self._survival.generation
            self._later = dict(self._live)
            self._stale = True
        if not self._stale and now < self._until:
            return []
        self._look_again(now)
        before = self.choice.exceptions
        extra, held = self._apply(now)
        self._stale = bool(self._later)
        self._until = min(self._releases.next, self._bounds.next)
        return self._announce(before, extra, held, now)

    def _ask_retained_version(self) -> int:
        return self.retained_version() if self.retained_version else self._retained_version + 1

    def _look_again(self, now: float) -> None:
        """Take in what has changed of jobs, by events or by the clock."""
        for name in list(islice(self._later, AT_ONCE)):
            later = self._later.pop(name)
            if self._live.get(name) is later:
                self._outdated[name] = later
        for name in self._releases.passed(now):
            if (job := self._live.get(name)) and job.release_at <= now:
                self._outdated[name] = job
        for job in list(self._outdated.values()):
            self._refresh(job, now)
        for name in list(self._bounds.passed(now)):
            if (job := self._live.get(name)) and now - job.queued_at > self.config.max_hold_s:
                self._overdue.add(name)
            elif job:  # at the bound, and not yet beyond it
                self._bounds.add(math.nextafter(now, math.inf), name)

    def _refresh(self, job: _Job, now: float) -> None:
        """Look at a job anew; one without a turn that is not expected back soon is live no longer."""
        self._outdated.pop(job.name, None)
        self._overdue.discard(job.name)
        job.release_at = math.inf
        for context in list(job.resting):
            release_s = self._release_s(context)
            # A context that rests for longer, or has ended, is nobody's footprint: it may be evicted.
            if context.turns or self._contexts.get(context.id) is not context or context.standing is Standing.ENDED:
                del job.resting[context]
            elif now - context.idle_since >= release_s:
                del job.resting[context]
                self.counts.released += 1
            else:
                job.release_at = min(job.release_at, context.idle_since + release_s)
        if not (job.turns or job.resting):
            self._leave(job)
            return
        queued = [turn.queued_at for turn in job.turns.values() if turn.queued_at is not None]
        job.queued_at = min(queued, default=math.inf)
        resting = tuple(context.standing for context in job.resting)
        replies = (*(turn.context.standing for turn in job.turns.values()), *resting)
        self._prefix.put(job.name, job.order, Footprint(tuple(job.chains), replies, resting), bool(job.turns))
        self._releases.add(job.release_at, job.name)
        self._bounds.add(job.queued_at + self.config.max_hold_s, job.name)

    def _apply(self, now: float) -> tuple[dict[str, Excuse], dict[str, str]]:
        """The rule: who is in although the sum does not fit, and who is held that was not before, with why.

        As `choose` says it of all live jobs, without a look at those of which nothing has changed.
        """
        if self._by_rule:
            return self._apply_rule(now)
        prefix, room = self._prefix, self.capacity_blocks * (1 - self.config.headroom)
        prefix.balance(room)
        taken = f"{prefix.blocks} of {int(room)} are taken by {len(prefix)} jobs before it"
        extra = self._extra()
        prefix.take(extra)
        held = {}
        for name in sorted((name for name in prefix.moved if name in self._live), key=prefix.place):
            if name not in prefix and name not in self._held:
                number = prefix.number(name)
                first = f"needs {prefix.wanted} blocks, {taken}"
                held[name] = f"{number} jobs that came before it wait; {taken}" if number else first
        return extra, held

    def _extra(self) -> dict[str, Excuse]:
        """Of those that do not fit, who is in all the same."""
        prefix, extra = self._prefix, dict[str, Excuse]()
        alone, busy = prefix.alone, prefix.busy
        names = {name for name in (alone, *self._overdue, *self._excused) if name}
        if not busy and (first := next((name for name in prefix.beyond if self._live[name].turns), None)):
            names.add(first)
        for name in sorted((name for name in names if name not in prefix), key=prefix.place):
            turns = bool(self._live[name].turns)
            if name == alone:
                extra[name] = "alone"
            elif name in self._overdue:
                extra[name] = "bound"
            elif name in self._excused or (turns and not busy):
                extra[name] = "idle"
            else:
                continue
            busy = busy or turns
        return extra

    def _apply_rule(self, now: float) -> tuple[dict[str, Excuse], dict[str, str]]:
        """The same by going through all live jobs."""
        candidates = [self._candidate(job, now) for job in self._live.values()]
        self.choice = choice = choose(candidates, self.capacity_blocks, self.config)
        self._prefix.moved |= {*choice.members, *choice.held, *self._in, *self._held}
        return choice.exceptions, {name: why for name, why in choice.held.items() if name not in self._held}

    def _candidate(self, job: _Job, now: float) -> Candidate:
        """A job as the rule is told of it."""
        resting = [context.standing for context in job.resting]
        replies = [*(turn.context.standing for turn in job.turns.values()), *resting]
        growth = sum(map(self._replies.expected, replies)) + sum(map(self._inputs.expected, resting))
        held_s = now - job.queued_at if job.queued_at < math.inf else 0.0
        tenant, slash, _ = job.name.partition("/")
        excused = job.name in self._excused
        return Candidate(
            job.name, job.order, job.chains, growth, held_s, bool(job.turns), excused, tenant if slash else ""
        )

    def _release_s(self, context: Context) -> float:
        """After which seconds of pause a context gives up its place."""
        if self.config.release_s is not None:
            return self.config.release_s
        if self._survival is None or not self._survival.ready:
            return self.config.max_release_s
        release_s = self._survival.release_age_s(context, self.config.window_s, self.config.theta)
        return min(release_s, self.config.max_release_s)

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
        joined = []
        other = bool(held) or before != extra
        for name in sorted(self._prefix.moved):
            is_in = name in members
            if is_in and name not in self._in:
                joined.append(name)
            (self._in.add if is_in else self._in.discard)(name)
            if is_in or name not in self._live:
                other |= self._held.pop(name, None) is not None
        self._held |= held
        self._prefix.moved.clear()
        if not self._by_rule and (other or isinstance(self.choice, Choice)):
            self.choice = InForce(self._prefix, self._held)
        # Turns of all others are held, or not, as they were.
        moved = {name: None for names in (self._changed_jobs, joined, held) for name in names}
        self._changed_jobs = {}
        for job in [self._live[name] for name in moved if name in self._live]:
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

    def _end_hold(self, name: str, turn: _Turn, end: HoldEnd, now: float) -> None:
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

    def _sweep(self) -> None:
        """Forget the places of jobs that the book has forgotten, once in a while."""
        if len(self._jobs) < self._sweep_at:
            return
        self._jobs = {
            name: job for name, job in self._jobs.items() if name in self._live or self._contexts.of_job(name)
        }
        self._sweep_at = max(2 * len(self._jobs), 64)

    # Looking

    @property
    def held_turns(self) -> int:
        """Turns that wait because the rule says so."""
        return self._held_turns

    def held_s(self, turn: str, now: float) -> float:
        """For how many seconds the rule has held a turn so far; 0 for a turn that is not open."""
        if (found := self._turns.get(turn)) is None:
            return 0.0
        return found.held_s + (0.0 if found.held_since is None else now - found.held_since)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        turns = {name: turn for job in self._jobs.values() for name, turn in job.turns.items()}
        if turns != self._turns:
            raise CheckFailed(f"jobs hold {len(turns)} turns, the index {len(self._turns)}")
        if lost := [job.name for job in self._jobs.values() if job.turns and self._live.get(job.name) is not job]:
            raise CheckFailed(f"jobs {lost} have turns but are not live")
        if both := self._in & self._held.keys():
            raise CheckFailed(f"jobs {sorted(both)} are members and held at once")
        held = sum(turn.held_since is not None for turn in self._turns.values())
        if held != self._held_turns:
            raise CheckFailed(f"{held} turns are held, {self._held_turns} are counted")
        self._prefix.check()
        for name, job in self._live.items():
            told = self._prefix.footprint(name)
            if name not in self._outdated and not (told and list(told.chains) == job.chains):
                raise CheckFailed(f"what the rule was told of job {name} is out of date, and not noted")
        if self.shares:
            self.shares.check()
