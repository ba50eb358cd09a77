"""The jobs of a cell: read or generated, split in halves, put into the seed's order, and laid out in time."""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256

from agentcache.errors import ConfigError
from agentcache.sim.fixed import Turn
from agentcache_workloads.generators import bfcl_search
from agentcache_workloads.generators.gamma import generate
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.parts.text_blocks import BLOCK, as_blocks, recycled
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.replay.engines.recorded_times import UNRECORDED_SERVICE_S
from agentcache_workloads.replay.engines.recorded_turns import recorded_turns
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job
from agentcache_workloads.results.cells import trace_path
from agentcache_workloads.results.config import Half, Workload


def half_of(sid: str) -> Half:
    """`tune` or `report`, by the last bit of the SHA-256 of a root session's id: the same split everywhere."""
    return "report" if sha256(sid.encode()).digest()[-1] & 1 else "tune"


@lru_cache(maxsize=4)
def jobs_of(workload: Workload, seed: int) -> tuple[Meta, tuple[PlannedJob, ...]]:
    """The jobs of a workload, in the order in which they start.

    A recorded arrival keeps its place, and the first calls are taken; jobs without one are shuffled by the seed. Only
    whole jobs are taken. Raises `InputError` for a bad trace, `ConfigError` when no job is left.
    """
    meta, sessions = _source(workload, seed)
    roots = [
        session
        for session in sessions.values()
        if session.parent is None and (workload.half == "all" or half_of(session.sid) == workload.half)
    ]
    if all(root.arrival_s is not None for root in roots):
        roots.sort(key=lambda root: root.arrival_s or 0.0)
    else:
        random.Random(seed).shuffle(roots)
    jobs: list[PlannedJob] = []
    calls = 0
    if workload.giant_ctx is not None:
        giants = (
            build_job(root, sessions, max_ctx=workload.giant_ctx, max_pause_s=workload.max_pause_s) for root in roots
        )
        giant = max(giants, key=lambda job: sum(turn.call.in_tok for turn in job.turns))
        roots = [root for root in roots if root.sid != giant.id]
        jobs.append(_scaled(giant, workload.time_scale))
    for root in roots:
        if workload.calls is not None and calls >= workload.calls:
            break
        job = build_job(root, sessions, max_ctx=workload.max_ctx, max_pause_s=workload.max_pause_s)
        if job.turns:
            jobs.append(_scaled(job, workload.time_scale))
            calls += len(job.turns)
    if not jobs:
        source = workload.trace or workload.gamma or workload.bfcl
        raise ConfigError(f"no job of {source} is left under these limits; nothing was run")
    return meta, tuple(jobs)


@lru_cache(maxsize=2)
def turns_of(
    workload: Workload, seed: int, slots: int, arrival: str, block_size: int, hints: bool
) -> tuple[tuple[Turn, ...], float]:
    """The turns of the fixed schedule in blocks of `block_size`, and their mean live tokens.

    `arrival` is that of a replay: `closed`, in which `slots` jobs are open at once, or when jobs start by themselves.
    """
    meta, jobs = jobs_of(workload, seed)
    assert meta.block_size
    if (arrivals := arrival_times(arrival, jobs, seed)) is not None:
        jobs = tuple(_arriving(job, at_s) for job, at_s in zip(jobs, arrivals, strict=True))
        slots = len(jobs)
    factor, rest = divmod(block_size, meta.block_size)
    if rest or not factor:
        raise ConfigError(f"block size {block_size} is no multiple of the trace's {meta.block_size}; nothing was run")
    # A coarse block is named by its last fine one, whose chained id commits to all of it.
    turns = tuple(
        dataclasses.replace(turn, keys=turn.keys[factor - 1 :: factor]) for turn in recorded_turns(jobs, slots, hints)
    )
    contexts = {turn.id: turn.context for job in jobs for turn in job.turns}
    return turns, mean_live_blocks(turns, contexts) * block_size


def mean_live_blocks(turns: Sequence[Turn], contexts: Mapping[str, str]) -> float:
    """Time-mean of the unique whole blocks in the current contexts of started, unfinished jobs.

    A context is its last turn's blocks from that turn's start until its own last turn ends. `contexts`: each
    turn's, by its id.
    """
    last = {contexts[turn.id]: turn.id for turn in turns}
    moments = sorted(
        [(turn.start_s, 1, number) for number, turn in enumerate(turns)]
        + [(turn.end_s, 0, number) for number, turn in enumerate(turns) if last[contexts[turn.id]] == turn.id]
    )
    users: Counter[object] = Counter()
    held: dict[str, Iterable[object]] = {}
    total, before = 0.0, moments[0][0]
    for now, starts, number in moments:
        total += len(users) * (now - before)
        before = now
        name = contexts[turns[number].id]
        keys = turns[number].keys if starts else ()
        old = held.get(name, ())
        held[name] = keys
        _change(users, old, keys)
    return total / (before - moments[0][0]) if before > moments[0][0] else 0.0


def _change(users: Counter[object], old: Iterable[object], new: Iterable[object]) -> None:
    gone, come = set(old), set(new)
    for key in gone - come:
        users[key] -= 1
        if not users[key]:
            del users[key]
    users.update(come - gone)


@lru_cache(maxsize=2)
def _source(workload: Workload, seed: int) -> tuple[Meta, dict[str, Session]]:
    """The sessions of a trace (the same for every seed) or of a generator."""
    stream: Iterable[Session]
    if workload.gamma:
        meta, stream = generate(workload.gamma, seed)
    elif workload.bfcl:
        meta, stream = bfcl_search.generate(workload.bfcl, seed)
    else:
        meta, stream = read_trace(trace_path(workload.trace or ""))
    if meta.block_size is None:
        meta, stream = dataclasses.replace(meta, block_size=BLOCK), as_blocks(stream)
    if workload.jobs is not None:
        stream = recycled(stream, workload.jobs)
    return meta, {session.sid: _usable(session, meta, workload.pause_s) for session in stream}


def _usable(session: Session, meta: Meta, pause_s: float | None) -> Session:
    """Only full blocks are cached; a follow-up whose pause is in its cycle time pauses for the rest of it.

    An output that calls a tool has stopped for it, whether the source says so or not.
    """
    size = meta.block_size or 1
    calls = []
    for call in session.calls:
        cycle_s = call.record.get("cycle_s")
        if call.stop == "unknown" and call.tools:
            call = dataclasses.replace(call, stop="tool_use")
        if pause_s is not None and call.after is not None:
            call = dataclasses.replace(call, delay_s=pause_s)
        elif call.delay_s is None and cycle_s is not None:
            call = dataclasses.replace(call, delay_s=max(0.0, cycle_s - UNRECORDED_SERVICE_S))
        if meta.tail_hashed and isinstance(call.items, tuple):
            call = dataclasses.replace(call, items=call.items[: call.in_tok // size])
        calls.append(call)
    return dataclasses.replace(session, calls=tuple(calls))


def _arriving(job: PlannedJob, at_s: float) -> PlannedJob:
    turns = (dataclasses.replace(turn, pause_s=at_s) if not turn.after else turn for turn in job.turns)
    return dataclasses.replace(job, turns=tuple(turns))


def _scaled(job: PlannedJob, factor: float) -> PlannedJob:
    if factor == 1.0:
        return job
    turns = tuple(dataclasses.replace(turn, pause_s=turn.pause_s * factor) for turn in job.turns)
    return dataclasses.replace(job, turns=turns)
