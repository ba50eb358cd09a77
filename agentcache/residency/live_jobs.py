"""The live jobs: those with a turn, or expected back soon, each as the rule of admission is told of it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from agentcache.errors import CheckFailed
from agentcache.model import Context, Key, Standing, shared
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.growth import GrowthWindow
from agentcache.policy.admission.working_set import Candidate, WorkingSetConfig
from agentcache.policy.survival import Survival
from agentcache.residency.contexts import ContextBook
from agentcache.residency.deadlines import Deadlines
from agentcache.residency.fitting import Prefix
from agentcache.residency.footprints import Footprint

AT_ONCE = 8
"""Jobs that are looked at in one step because curves have changed: there may be thousands."""


@dataclass(slots=True)
class OpenTurn:
    """A turn that is queued (`queued_at` in seconds) or running (None); `keys` are those of its prompt.

    Of these it has computed `computed_keys`, or will as far as is known. Admission has held it for `held_s` seconds in
    all, and does since `held_since`.
    """

    job: "LiveJob"
    context: Context
    keys: tuple[Key, ...]
    order_key: int
    queued_at: float | None
    computed_keys: int = 0
    preempted: bool = False
    held_since: float | None = None
    held_s: float = 0.0


@dataclass(slots=True)
class LiveJob:
    """`order` is the job's place: the smallest order key of its open turns, then its arrival.

    `turns` are queued or running, `resting` are the contexts that were left by their last turn, with how many keys it
    computed. The oldest turn that waits does so since `queued_at`; the first resting context gives up its place at
    `release_at`.
    """

    name: str
    order: tuple[float, ...]
    turns: dict[str, OpenTurn] = field(default_factory=dict)
    resting: dict[Context, int] = field(default_factory=dict)
    queued_at: float = math.inf
    release_at: float = math.inf

    @property
    def chains(self) -> list[tuple[Key, ...]]:
        """Keys of its open turns and of what rests."""
        return [*(turn.keys for turn in self.turns.values()), *(context.chain for context in self.resting)]


class LiveJobs:
    """Follows jobs by their turns and by the clock, and keeps their places and footprints in a `prefix`.

    What has changed of a job is noted and taken in by `look_again`. `overdue` are jobs whose oldest turn has waited for
    too long, `excused` those that run until their turns are over, whatever fits.
    """

    def __init__(
        self,
        config: WorkingSetConfig,
        contexts: ContextBook,
        survival: Survival | None,
        footing: Footing = ONE_GROUP,
    ) -> None:
        self.by_name: dict[str, LiveJob] = {}
        self.turns: dict[str, OpenTurn] = {}
        self.overdue: set[str] = set()
        self.excused: set[str] = set()
        self._config = config
        self._contexts = contexts
        self._survival = survival
        self._footing = footing
        self._places: dict[str, LiveJob] = {}  # also of jobs that are not live, as long as the book knows them
        self._arrivals = 0
        self._sweep_at = 64
        self._replies = GrowthWindow(config.growth_quantile)  # from a prompt to the end of its output
        self._inputs = GrowthWindow(config.growth_quantile)  # from there to the next prompt
        self.prefix = Prefix(self._replies, self._inputs, footing)
        self._outdated: dict[str, LiveJob] = {}  # to be looked at again
        self._later: dict[str, LiveJob] = {}  # to be looked at in time: curves have changed, by which they wait
        self._releases = Deadlines()  # of jobs, whose first resting context gives up its place then
        self._bounds = Deadlines()  # of jobs, whose oldest turn has waited for too long then
        self._generation = -1  # of the survival curves

    # Events

    def arrived(self, turn: str, context: Context, keys: tuple[Key, ...], order_key: int, now: float) -> LiveJob:
        """A turn is queued, its context as it was before."""
        job = self._places.get(context.job)
        if job is None:
            self._sweep()
            self._arrivals += 1
            job = self._places[context.job] = LiveJob(context.job, (order_key, self._arrivals))
        urgency = min(job.order[0], order_key) if job.turns else order_key
        job.order = (urgency, job.order[1])
        if context.chain:
            self._inputs.add(context.standing, max(len(keys) - len(context.chain), 0))
        job.resting.pop(context, None)
        # How many keys a turn computes is known when its blocks are looked up: until then, those that are new.
        computed = len(keys) - shared(context.chain, keys) if self._footing.left_blocks else 0
        job.turns[turn] = self.turns[turn] = OpenTurn(job, context, keys, order_key, now, computed)
        self.by_name[context.job] = job
        self.outdate(job)
        return job

    def closed(self, turn: str, gone: OpenTurn, final_blocks: int | None) -> None:
        """A turn is over, with `final_blocks` full blocks in its context if it finished."""
        del self.turns[turn]
        job = gone.job
        del job.turns[turn]
        replied = max((final_blocks or 0) - len(gone.keys), 0)
        if self._config.footprints and gone.queued_at is None:  # who leaves while it waits is not expected back
            job.resting[gone.context] = gone.computed_keys + replied
        if not job.turns:
            self.excused.discard(job.name)
            if not job.resting:
                self._leave(job)
        if final_blocks is not None:
            self._replies.add(gone.context.standing, replied)
        self.outdate(job)

    def outdate(self, job: LiveJob) -> None:
        """Something of the job is no longer as the rule was told."""
        if self.by_name.get(job.name) is job:
            self._outdated[job.name] = job

    def _leave(self, job: LiveJob) -> None:
        """The job is not live any more."""
        del self.by_name[job.name]
        self._outdated.pop(job.name, None)
        self.excused.discard(job.name)
        self.overdue.discard(job.name)
        self._releases.add(math.inf, job.name)
        self._bounds.add(math.inf, job.name)
        self.prefix.drop(job.name)

    def _sweep(self) -> None:
        """Forget the places of jobs that the book has forgotten, once in a while."""
        if len(self._places) < self._sweep_at:
            return
        self._places = {
            name: job for name, job in self._places.items() if name in self.by_name or self._contexts.of_job(name)
        }
        self._sweep_at = max(2 * len(self._places), 64)

    # The clock, and the curves by which contexts return

    @property
    def next(self) -> float:
        """Before then the clock alone changes nothing."""
        return min(self._releases.next, self._bounds.next)

    @property
    def unfinished(self) -> bool:
        """Whether jobs are still to be looked at because curves have changed."""
        return bool(self._later)

    def curves_moved(self) -> bool:
        """Whether the curves are others than they were; all jobs are to be looked at by them then."""
        if self._survival is None or self._survival.generation == self._generation:
            return False
        self._generation = self._survival.generation
        self._later = dict(self.by_name)
        return True

    def look_again(self, now: float) -> int:
        """Take in what has changed of jobs, by events or by the clock; returns how many contexts gave up places."""
        for name in list(islice(self._later, AT_ONCE)):
            later = self._later.pop(name)
            if self.by_name.get(name) is later:
                self._outdated[name] = later
        for name in self._releases.passed(now):
            if (job := self.by_name.get(name)) and job.release_at <= now:
                self._outdated[name] = job
        released = sum(self._refresh(job, now) for job in list(self._outdated.values()))
        for name in list(self._bounds.passed(now)):
            if (job := self.by_name.get(name)) and now - job.queued_at > self._config.max_hold_s:
                self.overdue.add(name)
            elif job:  # at the bound, and not yet beyond it
                self._bounds.add(math.nextafter(now, math.inf), name)
        return released

    def _refresh(self, job: LiveJob, now: float) -> int:
        """Look at a job anew; one without a turn that is not expected back soon is live no longer."""
        released = 0
        self._outdated.pop(job.name, None)
        self.overdue.discard(job.name)
        job.release_at = math.inf
        for context in list(job.resting):
            release_s = self._release_s(context)
            # A context that rests for longer, or has ended, is nobody's footprint: it may be evicted.
            if context.turns or self._contexts.get(context.id) is not context or context.standing is Standing.ENDED:
                del job.resting[context]
            elif now - context.idle_since >= release_s:
                del job.resting[context]
                released += 1
            else:
                job.release_at = min(job.release_at, context.idle_since + release_s)
        if not (job.turns or job.resting):
            self._leave(job)
            return released
        queued = [turn.queued_at for turn in job.turns.values() if turn.queued_at is not None]
        job.queued_at = min(queued, default=math.inf)
        resting = tuple(context.standing for context in job.resting)
        replies = (*(turn.context.standing for turn in job.turns.values()), *resting)
        footprint = Footprint(tuple(job.chains), replies, resting, self._left_keys(job))
        self.prefix.put(job.name, job.order, footprint, bool(job.turns))
        self._releases.add(job.release_at, job.name)
        self._bounds.add(job.queued_at + self._config.max_hold_s, job.name)
        return released

    def _release_s(self, context: Context) -> float:
        """After which seconds of pause a context gives up its place."""
        if self._config.release_s is not None:
            return self._config.release_s
        if self._survival is None or not self._survival.ready:
            return self._config.max_release_s
        release_s = self._survival.release_age_s(context, self._config.window_s, self._config.theta)
        return min(release_s, self._config.max_release_s)

    def _left_keys(self, job: LiveJob) -> int:
        """Of how many keys its open turns, and the last ones of what rests, leave something behind."""
        if not self._footing.left_blocks:
            return 0
        computed = [*(turn.computed_keys for turn in job.turns.values()), *job.resting.values()]
        return sum(int(min(keys, self._footing.left_keys)) for keys in computed)

    # Looking

    def candidates(self, now: float) -> Iterable[Candidate]:
        """All of them as the rule is told, where it goes through all."""
        return [self._candidate(job, now) for job in self.by_name.values()]

    def _candidate(self, job: LiveJob, now: float) -> Candidate:
        resting = [context.standing for context in job.resting]
        replies = [*(turn.context.standing for turn in job.turns.values()), *resting]
        growth = sum(map(self._replies.expected, replies)) + sum(map(self._inputs.expected, resting))
        held_s = now - job.queued_at if job.queued_at < math.inf else 0.0
        tenant, slash, _ = job.name.partition("/")
        return Candidate(
            job.name,
            job.order,
            job.chains,
            growth,
            held_s,
            bool(job.turns),
            job.name in self.excused,
            tenant if slash else "",
            self._left_keys(job),
        )

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        turns = {name: turn for job in self._places.values() for name, turn in job.turns.items()}
        if turns != self.turns:
            raise CheckFailed(f"jobs hold {len(turns)} turns, the index {len(self.turns)}")
        if lost := [job.name for job in self._places.values() if job.turns and self.by_name.get(job.name) is not job]:
            raise CheckFailed(f"jobs {lost} have turns but are not live")
        self.prefix.check()
        for name, job in self.by_name.items():
            told = self.prefix.footprint(name)
            if name not in self._outdated and not (
                told and list(told.chains) == job.chains and told.left_keys == self._left_keys(job)
            ):
                raise CheckFailed(f"what the rule was told of job {name} is out of date, and not noted")
