"""A cell becomes a row: one run of the simulated host that the cell names."""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import fmean

import msgspec

from agentcache.cost import CostModel, CostProfile
from agentcache.policy import names
from agentcache.sim.fixed import run_fixed
from agentcache.specs import Spec, split_layers
from agentcache_workloads.replay.accounts.metrics import jain, job_latency_s, percentile, spread, ttft_s
from agentcache_workloads.replay.engines.queueing import STEP_TOKENS, simulate
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import HostMemory, HostWrite, RunSpec
from agentcache_workloads.results.cells import STOCK, Cell
from agentcache_workloads.results.config import Workload
from agentcache_workloads.results.workload import jobs_of, turns_of

Value = str | int | float | bool | None
Measured = Mapping[str, Value]

CAPACITY_FACTOR = 1.5
CAPACITY_WIDTH = 1.03
ALONE_TOKENS = 4_000_000
VOCABULARY = 1000  # of tokens that nobody computes


def missing(cell: Cell) -> str | None:
    """Why a cell cannot run in this installation, if it cannot: a policy that is not here."""
    known = {STOCK, *names()}
    for part in split_layers(cell.policy):
        if (name := Spec("policy", part).name) not in known:
            return f"policy {name} is not installed"
    return None


def measure(cell: Cell) -> Measured:
    """Run one cell. Raises `ConfigError` and `InputError` for one that cannot be run."""
    started = time.process_time()
    row = ENGINES[cell.engine](cell)
    _, jobs = jobs_of(cell.workload, cell.seed)
    calls = sum(len(job.turns) for job in jobs)
    return {"jobs": len(jobs), "calls": calls, **row, "cpu_s": round(time.process_time() - started, 2)}


def _fixed(cell: Cell) -> Measured:
    """Fractions of prompt tokens and of prefill seconds, by the profile, against a pool that holds nothing."""
    turns, live = turns_of(cell.workload, cell.seed, cell.slots, cell.arrival, cell.block_size, cell.hints)
    pool = cell.cache_tokens // cell.block_size
    run = run_fixed(turns, cell.policy, CostModel(CostProfile.named(cell.profile), cell.block_size), pool)
    prompt_tokens = sum(turn.prompt_tokens for turn in turns)
    return {
        "live_pool": live / (pool * cell.block_size),
        "token_hit_percent": 100 * run.hits * cell.block_size / prompt_tokens,
        "after_hole_percent": 100 * run.hits_after_hole * cell.block_size / prompt_tokens,
        "saved_percent": 100 * run.saved_fraction,
        "prefill_saved_s": sum(row.saved_s for row in run.rows),
        "prefill_paid_s": run.paid_s,
        "holes_per_call": fmean(row.missing_runs - 1 for row in run.rows),
        "evictions": run.evicted_blocks,
        "overflow_blocks": run.overflow_blocks,
    }


def _sim(cell: Cell) -> Measured:
    """Latencies of the queueing simulation, in seconds; slowdowns are against `_alone_s`."""
    result = _simulated(cell)
    alone = _alone_s(cell.workload, cell.seed, cell.profile, cell.block_size)
    done = result.calls
    latencies = [job_latency_s(job) for job in result.jobs]
    paused = [job.paused_s for job in result.jobs]
    slowdowns = [job_latency_s(job) / alone[job.job] for job in result.jobs]
    ttft = [spread(ttft_s(call) for call in done if (call.kind == "first") == first) for first in (True, False)]
    everything = spread(ttft_s(call) for call in done)
    prompt = sum(call.prompt_tokens for call in done)
    cached = sum(call.cached_tokens for call in done)
    return {
        "live_pool": _live_pool(cell),
        **_named("job_latency", latencies),
        **_named("job_latency_no_tools", [all_s - paused_s for all_s, paused_s in zip(latencies, paused, strict=True)]),
        "ttft_mean_s": everything["mean"],
        "ttft_p99_s": everything["p99"],
        "ttft_first_mean_s": ttft[0]["mean"],
        "ttft_returning_mean_s": ttft[1]["mean"],
        "held_mean_s": fmean(call.held_s or 0.0 for call in done),
        "held_max_s": max(call.held_s or 0.0 for call in done),
        "slowdown_p99": percentile(slowdowns, 99),
        "slowdown_max": max(slowdowns),
        "jain": jain([1 / slowdown for slowdown in slowdowns]),
        "makespan_s": result.makespan_s,
        "prompt_tokens": prompt,
        "computed_tokens": prompt - cached,
        "cached_percent": 100 * cached / prompt,
        **({"loaded_percent": 100 * sum(call.loaded_tokens for call in done) / prompt} if cell.host_pools else {}),
        "request_hit_percent": 100 * fmean((call.cached_tokens or 0) > 0 for call in done),
        "tpot_mean_ms": _tpot_ms(result),
        "holes_per_call": fmean(call.holes or 0 for call in done),
        "evictions": result.evictions,
        "preemptions": sum(call.preemptions or 0 for call in done),
        **_urgent(cell, result),
    }


def _tpot_ms(result: RunResult) -> float | None:
    """The mean over calls of the time between two tokens of an output."""
    times = [
        1000 * (call.finished_s - call.first_token_s) / (call.output_tokens - 1)
        for call in result.calls
        if call.output_tokens > 1 and call.finished_s is not None and call.first_token_s is not None
    ]
    return fmean(times) if times else None


def _urgent(cell: Cell, result: RunResult) -> Measured:
    """Job latency of the urgent jobs and of the giant, where the workload has them."""
    _, jobs = jobs_of(cell.workload, cell.seed)
    found: dict[str, Value] = {}
    if cell.workload.urgent_every:
        urgent = {job.id for job, rank in zip(jobs, _priorities(cell) or (), strict=True) if rank == 0}
        found["urgent_latency_mean_s"] = fmean(job_latency_s(job) for job in result.jobs if job.job in urgent)
    if cell.workload.giant_ctx:
        found["giant_latency_s"] = next(job_latency_s(job) for job in result.jobs if job.job == jobs[0].id)
    return found


def _capacity(cell: Cell) -> Measured:
    """The largest Poisson job rate at which mean job latency less pauses is within 1.5x of that of jobs alone.

    By bisection on a scale of ratios, until the bracket is 3 % wide; a `cell.arrival` is not looked at.
    """
    light = fmean(_alone_less_pauses_s(cell.workload, cell.seed, cell.profile, cell.block_size).values())

    def holds(jobs_per_s: float) -> bool:
        result = _simulated(msgspec.structs.replace(cell, arrival=f"poisson:{jobs_per_s!r}"))
        return fmean(job_latency_s(job) - job.paused_s for job in result.jobs) <= CAPACITY_FACTOR * light

    low = high = 1 / light
    while not holds(low):
        high, low = low, low / 2
    while low == high or holds(high):
        low, high = high, high * 2
    while high / low > CAPACITY_WIDTH:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    at = msgspec.structs.replace(cell, arrival=f"poisson:{low!r}")
    return {"live_pool": _live_pool(at), "capacity_jobs_per_hour": 3600 * low, "light_load_s": light}


def _simulated(cell: Cell) -> RunResult:
    meta, jobs = jobs_of(cell.workload, cell.seed)
    assert meta.block_size
    spec = RunSpec(
        engine="sim",
        policy=cell.policy,
        admission=cell.admission,
        cache_blocks=cell.cache_tokens // cell.block_size,
        block_size=cell.block_size,
        tokens_per_block=meta.block_size,
        slots=cell.slots,
        hints=cell.hints,
        max_batched_tokens=STEP_TOKENS,
        host_memory=_host_memory(cell),
    )
    return simulate(
        spec,
        jobs,
        Renderer(meta, meta.block_size, VOCABULARY, 0),
        CostProfile.named(cell.profile),
        arrivals=arrival_times(cell.arrival, jobs, cell.seed),
        priorities=_priorities(cell),
    )


def _host_memory(cell: Cell) -> HostMemory | None:
    """A tier under the order that the pool has; under LRU it is written through, as that of vLLM's connectors is."""
    if cell.host_pools is None or cell.host_gbps is None:
        return None
    order = "lru" if cell.policy == STOCK else split_layers(cell.policy)[-1]
    write: HostWrite = "through" if order == "lru" else "evicted"
    return HostMemory(int(cell.host_pools * cell.cache_tokens), cell.host_gbps, order, write)


def _priorities(cell: Cell) -> list[int] | None:
    """Lower runs first."""
    every = cell.workload.urgent_every
    _, jobs = jobs_of(cell.workload, cell.seed)
    return [int(number % every > 0) for number in range(len(jobs))] if every else None


@lru_cache(maxsize=4)
def _alone(workload: Workload, seed: int, profile: str, block_size: int) -> RunResult:
    """The same jobs one after the other in a pool in which everything fits, under stock vLLM's order."""
    cell = Cell(
        engine="sim",
        variant="",
        workload=workload,
        policy=STOCK,
        admission="fcfs",
        hints=False,
        slots=1,
        cache_tokens=ALONE_TOKENS,
        block_size=block_size,
        seed=seed,
        profile=profile,
        arrival="closed",
    )
    return _simulated(cell)


def _alone_s(workload: Workload, seed: int, profile: str, block_size: int) -> dict[str, float]:
    return {job.job: job_latency_s(job) for job in _alone(workload, seed, profile, block_size).jobs}


def _alone_less_pauses_s(workload: Workload, seed: int, profile: str, block_size: int) -> dict[str, float]:
    return {job.job: job_latency_s(job) - job.paused_s for job in _alone(workload, seed, profile, block_size).jobs}


def _live_pool(cell: Cell) -> float:
    _, live = turns_of(cell.workload, cell.seed, cell.slots, cell.arrival, cell.block_size, True)
    return live / (cell.cache_tokens // cell.block_size * cell.block_size)


def _named(name: str, seconds: list[float]) -> Measured:
    """Mean and percentiles. A p99 wants 100 jobs, so there is none of fewer."""
    numbers = spread(seconds, (50, 90, 99), top=False)
    return {f"{name}_{what}_s": value for what, value in numbers.items()}


ENGINES: Mapping[str, Callable[[Cell], Measured]] = {"fixed": _fixed, "sim": _sim, "capacity": _capacity}
