"""One run in the queueing simulation: the same jobs, the same loop, simulated time."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Key, Stop
from agentcache.policy import make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.base import Foresees, Retains
from agentcache.policy.chunking import Chunking
from agentcache.residency import Residency
from agentcache.sim.queueing import MAX_SEGMENTS, Call, Engine, Running
from agentcache_workloads.replay.accounts.idle import IdleMeter, MeteredPool, MeteredResidency
from agentcache_workloads.replay.accounts.watch import Watcher
from agentcache_workloads.replay.hints import hints_of
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop
from agentcache_workloads.replay.jobs.jobs import Job, Turn
from agentcache_workloads.replay.jobs.keys import block_keys
from agentcache_workloads.replay.jobs.render import Renderer, Sizes
from agentcache_workloads.replay.spec import STOCK, CallRecord, RunResult

STOPS = {"tool_use": Stop.TOOL_USE, "end_turn": Stop.END_TURN, "max_tokens": Stop.LENGTH}


def simulate(
    jobs: Sequence[Job],
    renderer: Renderer,
    *,
    policy: str,
    admission: str,
    profile: CostProfile,
    cache_blocks: int,
    block_size: int,
    tokens_per_block: int,
    slots: int = 8,
    arrivals: Sequence[float] | None = None,
    priorities: Sequence[int] | None = None,
    time_scale: float = 1.0,
    max_batched_tokens: int = 2048,
    max_seqs: int = 256,
    chunking: Chunking | None = None,
    hints: bool = True,
    as_live: bool = False,
    max_segments: int = MAX_SEGMENTS,
    advance: Callable[[int], None] = lambda calls: None,
    watcher: Watcher | None = None,
    idle: IdleMeter | None = None,
) -> RunResult:
    """Run jobs, in the order given, to their end; deterministic.

    `policy` `vllm-lru` is stock vLLM: our `lru`, which reuses prefixes alone, first come first served. `arrivals` are
    the jobs' own times in seconds (None: a closed loop of `slots`), `priorities` theirs, lower first. `as_live` turns
    claim no more than the requests of a live replay do.
    Raises `ConfigError` for a bad spec, `InputError` for a turn that the pool could never hold.
    """
    cost = CostModel(profile, block_size)
    residency = make_residency(policy, admission, cost, cache_blocks, idle)
    if "pauses" in residency.policy.needs and hints and isinstance(residency.policy, Foresees):
        residency.policy.foresee("pauses", pauses_of(jobs, time_scale))
    engine = Engine(residency, cost, max_batched_tokens, max_seqs, chunking, max_segments)
    if idle:
        engine.pool = MeteredPool(residency, idle)
    loop = ClosedLoop(jobs, slots, time_scale, 0.0, arrivals)
    keys: dict[int, list[tuple[object, ...]]] = {}
    open_turns: dict[str, tuple[int, Turn, float]] = {}
    records: list[CallRecord] = []
    now = 0.0
    while not loop.done:
        for due_s, number, turn in loop.due(now):
            job = jobs[number]
            if number not in keys:
                keys[number] = block_keys(job, renderer, tokens_per_block, block_size)
            if idle:
                idle.expect(turn.id, f"{job.id}/{turn.context}", turn.followed_by is not None)
            call = make_call(job, turn, loop.is_last(number, turn), renderer.sizes(turn), keys[number], hints, as_live)
            engine.submit(replace(call, order_key=priorities[number]) if priorities else call, now)
            open_turns[turn.id] = (number, turn, due_s)
        if not engine.busy:
            assert loop.next_s is not None
            now = max(now, loop.next_s)
            continue
        now, finished = engine.step(now, float("inf") if loop.next_s is None else loop.next_s)
        if watcher:
            watcher.look(now, residency, lambda keys: (block is not None for block in engine.pool.find(keys)))
        for entry in finished:
            number, turn, due_s = open_turns.pop(entry.call.id)
            loop.finish(number, turn, now)
            records.append(record_of(entry, turn, due_s))
            if number in loop.ended:
                del keys[number]
            advance(len(records))
    engine.check()
    if idle:
        idle.check()
    return RunResult(
        calls=records,
        jobs=loop.records(),
        evictions=residency.evicted_blocks,
        makespan_s=now,
        classes={"engine": f"{Engine.__module__}.{Engine.__qualname__}", "policy": type(residency.policy).__qualname__},
        idle_token_s=idle.token_s if idle else None,
        residency=watcher.result() if watcher else None,
    )


def make_residency(
    policy: str, admission: str, cost: CostModel, cache_blocks: int, idle: IdleMeter | None = None
) -> Residency:
    """The core of a run, whose events `idle` hears too; raises `ConfigError` for a bad spec."""
    spec, rule = ("lru", None) if policy == STOCK else (policy, parse_admission(admission))
    made = make_policy(spec, cost, cache_blocks)
    make = partial(MeteredResidency, idle) if idle else Residency
    residency = make(made, cache_blocks, admission=rule)
    if residency.admission and isinstance(residency.policy, Retains):
        residency.admission.is_retained = residency.policy.retains
        residency.admission.retained_version = residency.policy.retained_version
    return residency


def pauses_of(jobs: Sequence[Job], time_scale: float) -> dict[str, list[float | None]]:
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
    job: Job, turn: Turn, last: bool, sizes: Sizes, keys: Sequence[tuple[Key, ...]], hints: bool, as_live: bool
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


def shuffled(jobs: Sequence[Job], seed: int) -> list[Job]:
    """The jobs in a seed's order, as the live engine takes them."""
    order = list(jobs)
    random.Random(seed).shuffle(order)
    return order


def record_of(entry: Running, turn: Turn, due_s: float) -> CallRecord:
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
    )
