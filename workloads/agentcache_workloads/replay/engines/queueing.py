"""One run in the queueing simulation: the same jobs, the same loop, simulated time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import LoadPrice
from agentcache.model import Key, Stop
from agentcache.policy import make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.base import Foresees
from agentcache.policy.chunking import parse_chunking
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from agentcache.sim.link import Link
from agentcache.sim.queueing import MAX_SEGMENTS, Call, Engine, Running
from agentcache_workloads.replay.accounts.idle import IdleMeter, MeteredPool, MeteredResidency
from agentcache_workloads.replay.accounts.watch import Watcher
from agentcache_workloads.replay.hints import hints_of
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.jobs.keys import block_keys
from agentcache_workloads.replay.jobs.render import Renderer, Sizes
from agentcache_workloads.replay.result import CallRecord, RunResult
from agentcache_workloads.replay.spec import RunSpec

STEP_TOKENS = 2048
"""What a simulated engine computes in a step, where nothing else is said of it."""

STOPS = {"tool_use": Stop.TOOL_USE, "end_turn": Stop.END_TURN, "max_tokens": Stop.LENGTH}


def simulate(
    spec: RunSpec,
    jobs: Sequence[PlannedJob],
    renderer: Renderer,
    profile: CostProfile,
    *,
    arrivals: Sequence[float] | None = None,
    priorities: Sequence[int] | None = None,
    max_seqs: int = 256,
    max_segments: int = MAX_SEGMENTS,
    as_live: bool = False,
    advance: Callable[[int], None] = lambda calls: None,
    watcher: Watcher | None = None,
    idle: IdleMeter | None = None,
) -> RunResult:
    """Run jobs, in the order given, to their end, as `spec` says; deterministic.

    `policy` `vllm-lru` is stock vLLM: our `lru`, which reuses prefixes alone, first come first served. `arrivals` are
    the jobs' own times in seconds (None: a closed loop of `slots`), `priorities` theirs, lower first. `as_live` turns
    claim no more than the requests of a live replay do.
    Raises `ConfigError` for a bad spec, `InputError` for a turn that the pool could never hold.
    """
    cost = CostModel(profile, spec.block_size)
    residency = make_residency(spec, cost, idle)
    if "pauses" in residency.policy.needs and spec.hints and isinstance(residency.policy, Foresees):
        residency.policy.foresee("pauses", pauses_of(jobs, spec.time_scale))
    price = price_of(spec)
    link = Link(price) if price else None
    chunking = parse_chunking(spec.chunking)
    engine = Engine(residency, cost, spec.max_batched_tokens, max_seqs, chunking, max_segments, link)
    if idle:
        engine.pool = MeteredPool(residency, idle)
    loop = ClosedLoop(jobs, spec.slots, spec.time_scale, 0.0, arrivals)
    calls = SimulatedCalls(spec, jobs, renderer, as_live, priorities)
    host = Simulated(engine, calls, advance, watcher, idle)
    drive(loop, host)
    engine.check()
    if idle:
        idle.check()
    return RunResult(
        calls=calls.records,
        jobs=loop.records(),
        evictions=residency.evicted_blocks,
        makespan_s=host.now,
        classes={"engine": f"{Engine.__module__}.{Engine.__qualname__}", "policy": type(residency.policy).__qualname__},
        idle_token_s=idle.token_s if idle else None,
        residency=watcher.result() if watcher else None,
    )


class SimulatedCalls:
    """The calls of simulated jobs: made as they are sent, and recorded as they end."""

    def __init__(
        self,
        spec: RunSpec,
        jobs: Sequence[PlannedJob],
        renderer: Renderer,
        as_live: bool = False,
        priorities: Sequence[int] | None = None,
    ) -> None:
        self.jobs = jobs
        self.records: list[CallRecord] = []
        self._spec, self._renderer, self._as_live, self._priorities = spec, renderer, as_live, priorities
        self._keys: dict[int, list[tuple[object, ...]]] = {}
        self._open: dict[str, tuple[int, PlannedTurn, float]] = {}

    def make(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> Call:
        """A turn of job `number` as it is sent."""
        job = self.jobs[number]
        if number not in self._keys:
            self._keys[number] = block_keys(job, self._renderer, self._spec.tokens_per_block, self._spec.block_size)
        self._open[turn.id] = number, turn, due_s
        sizes = self._renderer.sizes(turn)
        call = make_call(job, turn, last, sizes, self._keys[number], self._spec.hints, self._as_live)
        return replace(call, order_key=self._priorities[number]) if self._priorities else call

    def end(self, entry: Running, now: float) -> TurnEnd:
        number, turn, due_s = self._open.pop(entry.call.id)
        self.records.append(record_of(entry, turn, due_s))
        return TurnEnd(number, turn, now)

    def leave(self, number: int) -> None:
        del self._keys[number]


class Simulated:
    """One simulated engine as the host of a loop; its clock stands at the end of its last step."""

    def __init__(
        self,
        engine: Engine,
        calls: SimulatedCalls,
        advance: Callable[[int], None],
        watcher: Watcher | None,
        idle: IdleMeter | None,
    ) -> None:
        self.now = 0.0
        self._engine, self._calls = engine, calls
        self._advance, self._watcher, self._idle = advance, watcher, idle
        self.leave = calls.leave

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        if self._idle:
            context = f"{self._calls.jobs[number].id}/{turn.context}"
            self._idle.expect(turn.id, context, turn.followed_by is not None)
        self._engine.submit(self._calls.make(due_s, number, turn, last), self.now)

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        engine = self._engine
        if not engine.busy:
            assert until_s is not None
            self.now = max(self.now, until_s)
            return
        self.now, finished = engine.step(self.now, float("inf") if until_s is None else until_s)
        if self._watcher:
            find = engine.pool.find
            self._watcher.look(self.now, engine.residency, lambda keys: (block is not None for block in find(keys)))
        for entry in finished:
            yield self._calls.end(entry, self.now)
            self._advance(len(self._calls.records))


def make_residency(spec: RunSpec, cost: CostModel, idle: IdleMeter | None = None) -> Residency:
    """The core of a run, whose events `idle` hears too; raises `ConfigError` for a bad spec."""
    policy, rule = ("lru", None) if spec.stock else (spec.policy, parse_admission(spec.admission))
    made = make_policy(policy, cost, spec.cache_blocks)
    make = partial(MeteredResidency, idle) if idle else Residency
    residency = make(made, spec.cache_blocks, admission=rule, tier=_tier(spec, cost))
    if price := price_of(spec):
        residency.price_loads(cost, price)
    return residency


def price_of(spec: RunSpec) -> LoadPrice | None:
    """What loads from host memory take, where a run has some. Raises `ConfigError` for a link without a speed."""
    if (host := spec.host_memory) is None:
        return None
    return LoadPrice.of_link(spec.block_size * host.token_bytes, 1e9 * host.gbps)


def _tier(spec: RunSpec, cost: CostModel) -> Tier | None:
    """Stock vLLM's is written through, and least recently used."""
    if (host := spec.host_memory) is None:
        return None
    blocks = host.tokens // spec.block_size
    policy = make_policy("lru" if spec.stock else host.policy, cost, blocks)
    return Tier(policy, blocks, through=spec.stock or host.write == "through")


def pauses_of(jobs: Sequence[PlannedJob], time_scale: float) -> dict[str, list[float | None]]:
    """By context, the seconds between the end of each of its turns and its next one; None after its last.

    A pause for sub-agents is the recorded one: how long they take is not known before.
    """
    pauses: dict[str, list[float | None]] = {}
    for job in jobs:
        for turn in job.turns:
            later = None if turn.followed_by is None else job.turns[turn.followed_by]
            pause_s = None
            if later:
                alone = later.after == (turn.index,)
                pause_s = (later.pause_s if alone else max(later.call.delay_s or 0.0, later.pause_s)) * time_scale
            pauses.setdefault(f"{job.id}/{turn.context}", []).append(pause_s)
    return pauses


def make_call(
    job: PlannedJob,
    turn: PlannedTurn,
    last: bool,
    sizes: Sizes,
    keys: Sequence[tuple[Key, ...]],
    hints: bool,
    as_live: bool,
) -> Call:
    """A turn as it is sent; `last`: nothing of its job is left but this turn.

    `as_live`, it says what a live replay's request says: no agent branch, nothing of a tool call but by its hint, and
    for every turn whether another follows.
    """
    call = Call(
        id=turn.id,
        prompt_tokens=sizes.prompt,
        output_tokens=sizes.output,
        keys=keys[turn.index],
        job=job.id if hints else None,
        context=f"{job.id}/{turn.context}" if hints else None,
        stop=STOPS.get(turn.call.stop, Stop.UNKNOWN),
        tool=turn.call.tools[0] if hints and turn.call.tools else None,
        last=(last or None) if hints else None,
    )
    if not as_live:
        return call
    claims = hints_of(job, turn, last) if hints else {}
    tool = claims.get("this_func_call")
    ended = Stop.END_TURN if turn.call.stop == "end_turn" else Stop.LENGTH
    return replace(
        call,
        context=None,
        stop=Stop.TOOL_USE if tool else ended,
        tool=str(tool) if tool else None,
        last=bool(claims["is_last_step"]) if "is_last_step" in claims else None,
    )


def record_of(entry: Running, turn: PlannedTurn, due_s: float) -> CallRecord:
    """A finished call as it went."""
    assert entry.scheduled_s is not None
    return CallRecord(
        turn=turn.id,
        kind=turn.kind,
        arrived_s=due_s,
        prompt_tokens=entry.call.prompt_tokens,
        output_tokens=entry.call.output_tokens,
        first_token_s=entry.first_token_s,
        finished_s=entry.finished_s,
        queue_s=entry.scheduled_s - due_s,
        held_s=entry.held_s,
        cached_tokens=entry.cached_tokens,
        cached_after_hole=entry.cached_after_hole,
        holes=entry.holes,
        saved_s=entry.saved_s,
        preemptions=entry.preemptions,
        loaded_tokens=entry.loaded_tokens,
        load_s=entry.load_s,
    )
