"""Admission in a host: which of the queued turns may run now, by the working set of their jobs."""

from dataclasses import dataclass, field

from agentcache.errors import CheckFailed
from agentcache.model import Context, Decision, Hold, Join, Key, Standing
from agentcache.policy.pauses import PauseWindow
from agentcache.policy.working_set import Candidate, Choice, WorkingSetConfig, choose
from agentcache.residency.contexts import ContextBook


@dataclass(slots=True)
class _Turn:
    """A turn that is queued (`queued_at` in seconds) or running (None); `keys` are those of its prompt."""

    context: Context
    keys: tuple[Key, ...]
    queued_at: float | None


@dataclass(slots=True)
class _Job:
    """`order` is the job's place: the smallest order key that a turn of it gave, then its arrival."""

    order: tuple[float, ...]
    turns: dict[str, _Turn] = field(default_factory=dict)


class WorkingSetAdmission:
    """Keeps the live jobs and applies the rule whenever an event or the clock may have changed its outcome."""

    def __init__(self, config: WorkingSetConfig, capacity_blocks: int, contexts: ContextBook) -> None:
        self.config = config
        self.capacity_blocks = capacity_blocks
        self.choice = Choice((), 0, {}, ())
        self._contexts = contexts
        self._jobs: dict[str, _Job] = {}
        self._turns: dict[str, str] = {}  # turn -> job
        self._arrivals = 0
        self._growth = PauseWindow(first=1, every=1)
        self._stale = True
        self._until = 0.0  # the clock alone changes nothing before

    # Events

    def arrived(self, turn: str, context: Context, keys: tuple[Key, ...], order_key: int, now: float) -> None:
        """A turn is queued; `order_key` as vLLM's priority: lower is earlier."""
        job = self._jobs.get(context.job)
        if job is None:
            self._arrivals += 1
            job = self._jobs[context.job] = _Job((order_key, self._arrivals))
        job.order = (min(job.order[0], order_key), job.order[1])
        job.turns[turn] = _Turn(context, keys, now)
        self._turns[turn] = context.job
        self._stale = True

    def scheduled(self, turn: str) -> None:
        """A turn has its blocks."""
        if job := self._turns.get(turn):
            self._jobs[job].turns[turn].queued_at = None

    def preempted(self, turn: str, now: float) -> None:
        """A turn lost its blocks and is queued again."""
        if job := self._turns.get(turn):
            self._jobs[job].turns[turn].queued_at = now
            self._stale = True

    def closed(self, turn: str, final_blocks: int | None = None) -> None:
        """A turn is over, with `final_blocks` full blocks in its context if it finished."""
        if job := self._turns.pop(turn, None):
            gone = self._jobs[job].turns.pop(turn)
            if final_blocks is not None:
                self._growth.add(max(final_blocks - len(gone.keys), 0))
            self._stale = True

    def ended(self) -> None:
        """A job is known to have ended: its contexts say so."""
        self._stale = True

    # The rule

    def may_run(self, turn: str) -> bool:
        """Whether a queued turn is a member's; a turn nobody told us of may run."""
        return self._turns.get(turn) not in self.choice.held

    def decide(self, now: float) -> list[Decision]:
        """Apply the rule if its outcome may have changed; returns who joined and who is held that was not before."""
        if not self._stale and now < self._until:
            return []
        before = self.choice
        self.choice = choose(self._candidates(now), self.capacity_blocks, self.config)
        self._stale = False
        joined = set(self.choice.members) - set(before.members)
        held = self.choice.held.keys() - before.held.keys()
        return [
            *(Join(job) for job in self.choice.members if job in joined),
            *(Hold(job, reason) for job, reason in self.choice.held.items() if job in held),
        ]

    def _candidates(self, now: float) -> list[Candidate]:
        growth = int(self._growth.quantile(self.config.growth_quantile)) if len(self._growth) else 0
        candidates = []
        self._until = float("inf")
        for name, job in list(self._jobs.items()):
            family = self._contexts.of_job(name)
            open_turns = {id(turn.context): turn for turn in job.turns.values()}
            # A context that rests for longer, or has ended, is nobody's footprint: it may be evicted.
            release_s = self.config.release_s
            resting = [
                context
                for context in family
                if id(context) not in open_turns
                and context.standing is not Standing.ENDED
                and now - context.idle_since < release_s
            ]
            if not job.turns and not resting:
                if not family:
                    del self._jobs[name]
                continue
            queued = [turn.queued_at for turn in job.turns.values() if turn.queued_at is not None]
            self._until = min([self._until, *(context.idle_since + release_s for context in resting)])
            if queued:
                self._until = min(self._until, min(queued) + self.config.max_hold_s)
            chains = [turn.keys for turn in open_turns.values()] + [context.chain for context in resting]
            held_s = now - min(queued, default=now)
            candidates.append(Candidate(name, job.order, chains, growth, held_s, bool(job.turns)))
        return candidates

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        turns = {turn: name for name, job in self._jobs.items() for turn in job.turns}
        if turns != self._turns:
            raise CheckFailed(f"jobs hold {len(turns)} turns, the index {len(self._turns)}")
        if both := set(self.choice.members) & self.choice.held.keys():
            raise CheckFailed(f"jobs {sorted(both)} are members and held at once")
