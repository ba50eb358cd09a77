"""The numbers of one run: each field of `agentcache-replay/1` has its one definition here."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from agentcache_workloads.replay.spec import CallRecord, JobRecord, RunResult, RunSpec

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


def run_object(spec: RunSpec, result: RunResult, live_pool: float) -> dict[str, Any]:
    """The run object of `agentcache-replay/1`: seconds, engine tokens, blocks; None is unknown.

    Of calls, those that were complete count; of jobs, those whose every call was. Beyond the schema it has
    `job_latencies_s` (sorted) and the `classes` that ran in the engine.
    """
    done = [call for call in result.calls if call.finished_s is not None and call.error is None]
    prompt_tokens = sum(call.prompt_tokens for call in done)
    cached_tokens = sum(call.cached_tokens for call in done)
    latencies_s = sorted(map(job_latency_s, result.jobs))
    slowdowns = [job_latency_s(job) / result.alone_s[job.job] for job in result.jobs if job.job in result.alone_s]
    return {
        "engine": spec.engine,
        "policy": spec.policy,
        "admission": spec.admission,
        "seed": spec.seed,
        "profile": spec.profile,
        "output_mode": "forced",
        "hints": spec.hints,
        "live_pool": live_pool,
        "slots": spec.slots,
        "cache_tokens": spec.cache_blocks * spec.block_size,
        "jobs": len(result.jobs),
        "calls": len(done),
        "errors": sum(call.error is not None for call in result.calls),
        "job_latency_s": spread(latencies_s, (50, 90, 95, 99), top=False),
        "job_latency_no_tools_s": spread(
            [job_latency_s(job) - job.paused_s for job in result.jobs], (50, 90, 95, 99), top=False
        ),
        "ttft_s": {
            "all": spread(map(ttft_s, done)),
            **{
                kind: spread(ttft_s(call) for call in done if call.kind == kind)
                for kind in ("first", "after_tool", "after_user")
            },
        },
        "tpot_s": spread(map(tpot_s, done)),
        "queue_s": spread(call.queue_s for call in done),
        "held_s": spread(0.0 if spec.admission == "fcfs" else call.held_s for call in done),  # `fcfs` holds nothing
        "slowdown": spread(slowdowns, (50, 99), top=False) if slowdowns else {"p50": None, "p99": None},
        "jain": jain([1 / slowdown for slowdown in slowdowns]),
        "prompt_tokens": prompt_tokens,
        "cached_tokens": cached_tokens,
        "cached_tokens_after_hole": 0 if spec.stock else _total(call.cached_after_hole for call in done),
        "computed_tokens": prompt_tokens - cached_tokens,
        "rebuild_s_saved": _sum_known(call.saved_s for call in done),
        "holes_per_call": _holes(done),
        "arrival": spec.arrival,
        "evictions": result.evictions,
        "preemptions": _total(call.preemptions for call in done),
        "makespan_s": result.makespan_s,
        "job_latencies_s": latencies_s,
        "classes": result.classes,
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


def _total(values: Iterable[int | None]) -> int | None:
    """The sum, None as soon as one part is unknown."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _sum_known(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _holes(done: Sequence[CallRecord]) -> Numbers:
    holes = [call.holes for call in done if call.holes is not None]
    return {"mean": mean(holes), "p99": percentile(holes, 99)}
