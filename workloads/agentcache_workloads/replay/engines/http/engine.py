"""Runs on any OpenAI-compatible server, over HTTP: the same jobs, the same loop, timed at the client."""

import asyncio
import signal
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from typing import Any

from msgspec import structs

from agentcache.cost.prior import ModelShape, flop_prior
from agentcache.cost.profile import CostProfile
from agentcache.errors import AgentCacheError, ConfigError
from agentcache_workloads.replay.engines import base
from agentcache_workloads.replay.engines.base import Target, model_config
from agentcache_workloads.replay.engines.http.driver import SIGNALS, Drive
from agentcache_workloads.replay.engines.http.server import Server, ask
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.jobs import PlannedJob, shuffled
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import BLOCK_SIZE, STOCK, Options, RunSpec

FORESIGHT: frozenset[str] = frozenset()
SERVED = True


class Served(Options, frozen=True, kw_only=True):
    """Options that a server has filled in; `server`: what it said of itself."""

    server: Server


def adopt(options: Options) -> Served:
    """Fill in from the server's own words what the user left open, and refuse what contradicts them."""
    assert options.remote is not None
    if not options.remote.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url is {options.remote.url!r}, expected http://HOST:PORT; nothing was started")
    server = ask(options.remote.url, options.model)
    ran = server.policy or (STOCK if server.stock else None)
    named = options.policies
    if named and ran and server.policy is not None and named != ran and ran not in named.split("+"):
        raise ConfigError(
            f"--policies is {named!r}, but the server says that it runs {ran!r}; nothing was started",
            hint="leave --policies out to take the server's word",
        )
    size = server.block_size or options.block_size or BLOCK_SIZE
    if options.block_size not in (None, size):
        raise ConfigError(
            f"--block-size is {options.block_size}, the server's blocks have {size} tokens; nothing was started"
        )
    pool = options.cache_tokens
    if server.cache_blocks is not None:
        pool = server.cache_blocks * size
        if options.cache_tokens not in (None, pool):
            raise ConfigError(
                f"--cache-tokens is {options.cache_tokens}, the server's pool has {pool}; nothing was started",
                hint="leave --cache-tokens out",
            )
    filled = {"policies": named or ran or "server", "block_size": size, "cache_tokens": pool, "model": server.model}
    return Served(**{**structs.asdict(options), **filled}, server=server)


def target(options: Options) -> Target:
    """A server that runs already; its vocabulary is given, or stands in the folder that it serves, if that is here."""
    assert isinstance(options, Served)
    server = options.server
    vocabulary = options.vocab_size
    config: dict[str, Any] | None = None
    with suppress(OSError, ValueError):
        config = model_config(server.root or server.model)
    if vocabulary is None:
        if config is None:
            raise ConfigError(
                f"the vocabulary of model {server.model} is not known here; nothing was started",
                hint="give --vocab-size",
            )
        vocabulary = base.vocabulary(server.root or server.model, config)
    profile = None
    if options.profile:
        profile = CostProfile.named(str(options.profile))
    elif config is not None:
        with suppress(AgentCacheError, KeyError):
            profile = flop_prior(ModelShape.from_hf_config(config))
    name = str(options.profile) if options.profile else None
    return Target(server.model, vocabulary, server.max_tokens, profile, name)


def run(spec: RunSpec, advance: Callable[[int], None], before: RunResult | None = None) -> RunResult:
    """Drive the server with a spec's jobs; `advance` hears how many calls have ended.

    `before`: an interrupted run of the same spec, whose jobs are not run again. Ctrl-C ends the run: what is done comes
    back, `interrupted`. Raises `EngineError` where nothing is answered.
    """
    assert spec.remote is not None
    plan = load_plan(spec.trace, spec.selection)
    jobs = shuffled(plan.jobs, spec.seed)
    arrivals = arrival_times(spec.arrival, jobs, spec.seed, spec.time_scale)
    over = closed_jobs(jobs, before) if before else set()
    left = [number for number, job in enumerate(jobs) if job.id not in over]
    if arrivals is not None:
        first_s = arrivals[left[0]] if over and left else 0.0
        arrivals = [arrivals[number] - first_s for number in left]
    renderer = Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, spec.seed)
    this = Drive(spec, spec.remote, [jobs[number] for number in left], renderer, arrivals, advance)
    if before:
        this.ended = sum(len(job.turns) for job in jobs if job.id in over)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        result = asyncio.run(this.run())
    finally:
        for number, handler in handlers.items():
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)
    return joined(before, result, over, jobs) if before else result


def closed_jobs(jobs: Sequence[PlannedJob], result: RunResult) -> set[str]:
    """The jobs of a run that ended, or of which a call failed."""
    failed = {call.turn for call in result.calls if call.error is not None}
    return {job.job for job in result.jobs} | {job.id for job in jobs if any(turn.id in failed for turn in job.turns)}


def joined(before: RunResult, after: RunResult, over: Set[str], jobs: Sequence[PlannedJob]) -> RunResult:
    """Two parts of one run. The second's clock goes on where the first's stood; what it did anew counts once."""
    assert before.client is not None
    assert after.client is not None
    shift_s = before.client.wall_s
    kept = {turn.id for job in jobs if job.id in over for turn in job.turns}
    later = [
        structs.replace(
            call,
            **{
                name: None if (at := getattr(call, name)) is None else at + shift_s
                for name in ("arrived_s", "sent_s", "first_token_s", "finished_s")
            },
        )
        for call in after.calls
    ]
    summed = {
        name: None if None in (parts := (getattr(before, name), getattr(after, name))) else sum(parts)
        for name in ("evictions", "preemptions", "cached_tokens", "cached_after_hole", "idle_token_s")
    }
    client = structs.replace(
        after.client,
        send_lag_s=before.client.send_lag_s + after.client.send_lag_s,
        loop_lag_s=before.client.loop_lag_s + after.client.loop_lag_s,
        peak_open=max(before.client.peak_open, after.client.peak_open),
        parts=before.client.parts + 1,
        **{
            name: getattr(before.client, name) + getattr(after.client, name)
            for name in ("timeouts", "refused", "busy", "retries", "events", "cpu_s", "wall_s")
        },
    )
    return structs.replace(
        after,
        calls=[call for call in before.calls if call.turn in kept] + later,
        jobs=before.jobs
        + [
            structs.replace(job, arrived_s=job.arrived_s + shift_s, ended_s=job.ended_s + shift_s) for job in after.jobs
        ],
        makespan_s=after.makespan_s + shift_s if after.jobs else before.makespan_s,
        holes_mean=None,  # means of two parts without their weights
        client=client,
        **summed,
    )
