"""The simulator driven by a live run's log: its steps at the recorded times, with the recorded turns in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentcache.cost import CostModel
from agentcache.sim.queueing import Engine, Running
from agentcache_workloads.replay.engines.queueing import make_call, make_residency
from agentcache_workloads.replay.jobs.jobs import PlannedJob
from agentcache_workloads.replay.jobs.keys import block_keys
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import CallRecord, EngineStep
from agentcache_workloads.replay.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Difference:
    """A call that went otherwise in the simulator: tokens found there and live, and the preemptions of both."""

    turn: str
    cached_tokens: int
    live_cached_tokens: int
    preemptions: int
    live_preemptions: int | None


@dataclass(frozen=True, slots=True)
class Driven:
    """What the simulator found in the recorded steps. `same_ends` calls ended in the step in which they did live."""

    cached_tokens: int
    calls: int
    same_ends: int
    differences: tuple[Difference, ...]


def drive(
    steps: Sequence[EngineStep],
    calls: Sequence[CallRecord],
    jobs: Sequence[PlannedJob],
    renderer: Renderer,
    cost: CostModel,
    spec: RunSpec,
    max_seqs: int,
    max_segments: int,
) -> Driven:
    """Run the recorded steps of a live run of `spec`; `calls` are what it measured.

    Only the clock and the moments at which turns are sent are the log's. Which turns a step runs, how much of each,
    what is found, evicted and preempted is decided anew; the ends of the two runs agree where all of it does.
    """
    engine = Engine(
        make_residency(spec, cost),
        cost,
        spec.max_batched_tokens,
        max_seqs,
        max_segments=max_segments,
    )
    turns = {turn.id: (job, turn) for job in jobs for turn in job.turns}
    keys = {job.id: block_keys(job, renderer, spec.tokens_per_block, spec.block_size) for job in jobs}
    entries: dict[str, Running] = {}
    finished: Counter[str] = Counter()  # turns, by job
    for step in steps:
        for turn_id in step.sent:
            job, turn = turns[turn_id]
            last = finished[job.id] == len(job.turns) - 1
            call = make_call(job, turn, last, renderer.sizes(turn), keys[job.id], spec.hints, as_live=True)
            entries[turn_id] = engine.submit(call, step.start_s)
        if engine.busy:
            _, ended = engine.step(step.start_s, step.start_s, step.end_s)
            finished.update(turns[entry.call.id][0].id for entry in ended)
    engine.check()
    pairs = [(entries[call.turn], call) for call in calls]
    return Driven(
        cached_tokens=sum(entry.cached_tokens for entry in entries.values()),
        calls=len(pairs),
        same_ends=sum(entry.finished_s == call.finished_s for entry, call in pairs),
        differences=tuple(
            Difference(call.turn, entry.cached_tokens, call.cached_tokens, entry.preemptions, call.preemptions)
            for entry, call in pairs
            if entry.cached_tokens != call.cached_tokens
        ),
    )
