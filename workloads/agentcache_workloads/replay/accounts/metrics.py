"""The numbers of one run: each field of `agentcache-replay/1` has its one definition here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentcache.cost import CostModel
from agentcache_workloads.replay.result import IDLE_TOTAL, CallRecord, Client, JobRecord, RunResult
from agentcache_workloads.replay.spec import HostMemory, RunSpec

P99_SAMPLES = 100
"""From fewer samples than this no p99 is given."""

Numbers = dict[str, float | None]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear interpolation between the two nearest ranks; None of nothing, and no p99 from few samples."""
    if not values or (percent >= 99 and len(values) < P99_SAMPLES):
        return None
    return float(np.percentile(values, percent))


def mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def spread(known: Iterable[float | None], percents: Sequence[int] = (50, 90, 99), top: bool = True) -> Numbers:
    """Mean, percentiles and (if `top`) maximum of the values that are not None."""
    values = [value for value in known if value is not None]
    numbers = {"mean": mean(values), **{f"p{percent}": percentile(values, percent) for percent in percents}}
    if top:
        numbers["max"] = max(values, default=None)
    return numbers


def run_object(
    spec: RunSpec,
    result: RunResult,
    live_pool: float,
    known: Mapping[str, int] | None = None,
    cost: CostModel | None = None,
) -> dict[str, Any]:
    """The run object of `agentcache-replay/1`: seconds, engine tokens, blocks; None is unknown.

    Of calls, those that were complete count; of jobs, those whose every call was. `known`: by turn, the prompt tokens
    that calls before it had left (`known_tokens`). `cost`: what weighs tokens by their rebuild time. Beyond the schema
    it has `job_latencies_s` (sorted), the `classes` that ran in the engine, of fields that are None in `unknown` why
    nobody knows them, and `host_memory` where a run had some.
    """
    done = [call for call in result.calls if call.finished_s is not None and call.error is None]
    told = all(call.cached_known for call in done)
    preemptions = _total(call.preemptions for call in done)
    return {
        "engine": spec.engine,
        "policy": spec.policy,
        "admission": spec.admission,
        "seed": spec.seed,
        "profile": spec.profile,
        "output_mode": spec.remote.output if spec.remote else "forced",
        "hints": spec.hints,
        "dialect": spec.remote.dialect if spec.remote and spec.hints else None,
        "oracle": spec.oracle,
        "interrupted": result.interrupted,
        "live_pool": live_pool,
        "slots": spec.slots,
        "cache_tokens": spec.cache_blocks * spec.block_size,
        "jobs": len(result.jobs),
        "calls": len(done),
        "errors": sum(call.error is not None for call in result.calls),
        **_times(spec, result, done),
        **_tokens(spec, result, done, known, cost),
        "arrival": spec.arrival,
        "evictions": result.evictions,
        "preemptions": result.preemptions if preemptions is None else preemptions,
        "idle_retained_token_s": result.idle_token_s,
        "unknown": _unknown(spec, result),
        "makespan_s": result.makespan_s,
        "jobs_per_s": len(result.jobs) / result.makespan_s if result.makespan_s else None,
        "by_kind": {kind: _tokens_of_kind(of, known, told) for kind, of in _kinds(done)},
        "client": client_object(result.client) if result.client else None,
        "residency": result.residency,
        "job_latencies_s": sorted(map(job_latency_s, result.jobs)),
        "classes": result.classes,
        **({"host_memory": _host_memory(spec, spec.tier, done)} if spec.tier else {}),
    }


def _host_memory(spec: RunSpec, host: HostMemory, done: Sequence[CallRecord]) -> dict[str, Any]:
    """The tier of a run, and what came from there: tokens, and in simulated time the seconds that calls waited."""
    simulated = spec.engine == "sim"
    return {
        "tokens": host.tokens,
        "gbps": host.gbps if simulated else None,
        "policy": "lru" if spec.stock else host.policy,
        "write": "through" if spec.stock else host.write,
        "loaded_tokens": sum(call.loaded_tokens for call in done),
        "load_s": spread((call.load_s for call in done if call.loaded_tokens and simulated), (50, 90, 99)),
    }


def _times(spec: RunSpec, result: RunResult, done: Sequence[CallRecord]) -> dict[str, Any]:
    """How long jobs and calls took, and how long they waited; seconds."""
    slowdowns = [job_latency_s(job) / result.alone_s[job.job] for job in result.jobs if job.job in result.alone_s]
    less_pauses_s = [job_latency_s(job) - job.paused_s for job in result.jobs]
    return {
        "job_latency_s": spread(sorted(map(job_latency_s, result.jobs)), (50, 90, 95, 99), top=False),
        "job_latency_no_tools_s": spread(less_pauses_s, (50, 90, 95, 99), top=False),
        "ttft_s": {"all": spread(map(ttft_s, done)), **{kind: spread(map(ttft_s, of)) for kind, of in _kinds(done)}},
        "tpot_s": spread(map(tpot_s, done)),
        "itl_s": spread(gap for call in done for gap in call.gaps_s),
        "queue_s": spread(call.queue_s for call in done),
        "held_s": spread(0.0 if spec.admission == "fcfs" else call.held_s for call in done),  # `fcfs` holds nothing
        "slowdown": spread(slowdowns, (50, 99), top=False) if slowdowns else {"p50": None, "p99": None},
        "jain": jain([1 / slowdown for slowdown in slowdowns]),
    }


def _tokens(
    spec: RunSpec,
    result: RunResult,
    done: Sequence[CallRecord],
    known: Mapping[str, int] | None,
    cost: CostModel | None,
) -> dict[str, Any]:
    """What prompts were found in the cache, and what that saved; a server's own counts where no call has its own."""
    prompt_tokens = sum(call.prompt_tokens for call in done)
    told = all(call.cached_known for call in done)
    cached_tokens = sum(call.cached_tokens for call in done) if told else result.cached_tokens
    after_hole = _total(call.cached_after_hole for call in done)
    return {
        "prompt_tokens": prompt_tokens,
        "cached_tokens": cached_tokens,
        "cached_tokens_after_hole": 0 if spec.stock else result.cached_after_hole if after_hole is None else after_hole,
        "computed_tokens": None if cached_tokens is None else prompt_tokens - cached_tokens,
        "recomputed_tokens": _recomputed(done, known) if told and known is not None else None,
        "hit_rate": hit_rates(done, spec.block_size, cost, spec.stock) if told else dict.fromkeys(HIT_RATES),
        "rebuild_s_saved": _total(call.saved_s for call in done),
        "holes_per_call": _holes(done) | ({} if result.holes_mean is None else {"mean": result.holes_mean}),
    }


def _tokens_of_kind(of: Sequence[CallRecord], known: Mapping[str, int] | None, told: bool) -> dict[str, Any]:
    return {
        "calls": len(of),
        "prompt_tokens": sum(call.prompt_tokens for call in of),
        "cached_tokens": sum(call.cached_tokens for call in of) if told else None,
        "recomputed_tokens": _recomputed(of, known) if told and known is not None else None,
    }


def _unknown(spec: RunSpec, result: RunResult) -> dict[str, str]:
    """By field, why it is None, where that is a matter of who could say it."""
    if result.idle_token_s is not None:
        return {}
    if spec.remote:
        return {"idle_retained_token_s": f"the server has no metric {IDLE_TOTAL}"}
    return {"idle_retained_token_s": "stock vLLM does not tell which blocks leave its memory"}


KINDS = ("first", "after_tool", "after_user")
HIT_RATES = ("request", "block", "token", "compute")


def _kinds(done: Sequence[CallRecord]) -> list[tuple[str, list[CallRecord]]]:
    return [(kind, [call for call in done if call.kind == kind]) for kind in KINDS]


def hit_rates(
    done: Sequence[CallRecord], block_size: int, cost: CostModel | None = None, prefix_only: bool = False
) -> Numbers:
    """Four rates over the same calls, each 0 to 1; None of nothing.

    `request`: calls that found anything, of all calls. `block`: whole blocks found, of the prompts' whole blocks.
    `token`: tokens found, of the prompts' tokens. `compute`: seconds of prefill that what was found saved, by the cost
    model, of the seconds that the whole prompts take; unknown where tokens behind holes were found, and nobody says
    which. `prefix_only`: none can have been.
    """
    blocks = sum(call.prompt_tokens // block_size for call in done)
    tokens = sum(call.prompt_tokens for call in done)
    saved_s = _total(saved_by(call, cost, prefix_only) for call in done) if cost else None
    whole_s = sum(cost.segments_seconds([(0, call.prompt_tokens)]) for call in done) if cost else 0.0
    return {
        "request": sum(call.cached_tokens > 0 for call in done) / len(done) if done else None,
        "block": sum(call.cached_tokens // block_size for call in done) / blocks if blocks else None,
        "token": sum(call.cached_tokens for call in done) / tokens if tokens else None,
        "compute": None if saved_s is None or not whole_s else saved_s / whole_s,
    }


def saved_by(call: CallRecord, cost: CostModel, prefix_only: bool = False) -> float | None:
    """Seconds of prefill that the cached tokens of a call saved."""
    if call.saved_s is not None:
        return call.saved_s
    if not prefix_only and call.cached_after_hole != 0:
        return None
    rest = cost.segments_seconds([(call.cached_tokens, call.prompt_tokens)], call.cached_tokens)
    return cost.segments_seconds([(0, call.prompt_tokens)]) - rest


def _recomputed(done: Sequence[CallRecord], known: Mapping[str, int]) -> int:
    """Prompt tokens that had been in the cache when an earlier call ended, and were computed again."""
    return sum(max(known.get(call.turn, 0) - call.cached_tokens, 0) for call in done)


def client_object(client: Client) -> dict[str, Any]:
    """What driving the server cost the machine that did, and what had to be repeated."""
    return {
        "connections": client.connections,
        "peak_open": client.peak_open,
        "timeouts": client.timeouts,
        "refused": client.refused,
        "busy": client.busy,
        "retries": client.retries,
        "parts": client.parts,
        "events": client.events,
        "events_per_s": client.events / client.wall_s if client.wall_s else None,
        "cpu_s": client.cpu_s,
        "cpu_share": client.cpu_s / client.wall_s if client.wall_s else None,
        "cache_reset": client.cache_reset,
        "send_lag_s": spread(client.send_lag_s),
        "loop_lag_s": spread(client.loop_lag_s),
    }


def job_latency_s(job: JobRecord) -> float:
    """From the moment the job got its slot to the end of its last call, pauses included."""
    return job.ended_s - job.arrived_s


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index of fairness: 1 when all have the same share, 1/n when one has all; shares are 1/slowdown."""
    total = sum(shares)
    return total**2 / (len(shares) * sum(share**2 for share in shares)) if total else None


def ttft_s(call: CallRecord) -> float | None:
    """From the moment the call was due to its first token."""
    return None if call.first_token_s is None else call.first_token_s - call.arrived_s


def tpot_s(call: CallRecord) -> float | None:
    """Seconds a token after the first one; None of one-token outputs."""
    if call.first_token_s is None or call.finished_s is None or call.output_tokens < 2:
        return None
    return (call.finished_s - call.first_token_s) / (call.output_tokens - 1)


def _total(values: Iterable[Any]) -> Any:
    """The sum, None as soon as one part is unknown."""
    known = list(values)
    return None if None in known else sum(known)


def _holes(done: Sequence[CallRecord]) -> Numbers:
    holes = [call.holes for call in done if call.holes is not None]
    return {"mean": mean(holes), "p99": percentile(holes, 99)}
