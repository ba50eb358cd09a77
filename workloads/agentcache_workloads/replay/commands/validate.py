"""The command `agentcache validate-sim`: the live engine and the simulator on the same jobs, side by side."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import typer
from msgspec import structs
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from agentcache.cost import CostModel, CostProfile, prior_of
from agentcache.errors import EngineError
from agentcache.files import write_json
from agentcache_workloads.replay.accounts.metrics import job_latency_s
from agentcache_workloads.replay.accounts.provenance import commit, describe_host, describe_trace
from agentcache_workloads.replay.commands.flags import taking
from agentcache_workloads.replay.commands.outcome import progress
from agentcache_workloads.replay.commands.prepare import prepare
from agentcache_workloads.replay.engines.base import model_config, warn
from agentcache_workloads.replay.engines.live_clock import Driven, drive
from agentcache_workloads.replay.engines.queueing import simulate
from agentcache_workloads.replay.engines.vllm import engine as vllm_engine
from agentcache_workloads.replay.jobs.jobs import shuffled
from agentcache_workloads.replay.jobs.plan import ReplayPlan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import BLOCK_SIZE, MODEL, POLICIES, Options, RunSpec

SCHEMA = "agentcache-validation/1"

POINTS, LATENCY = 2.0, 0.10
"""How far the free simulation may be off: percentage points of prompt tokens cached, share of the mean job latency."""

MAX_SEQS, MAX_SEGMENTS = 64, 8
"""What the live engine runs at once: turns, and gaps of one prompt."""


@dataclass(frozen=True, slots=True)
class LiveBesideSim:
    """One live run beside its two simulations. `free_*` are None without a measured profile."""

    policy: str
    admission: str
    seed: int
    prompt_tokens: int
    live_cached_tokens: int
    driven: Driven
    live_latency_s: float
    free_cached_tokens: int | None
    free_latency_s: float | None

    @property
    def points(self) -> float | None:
        """By how many points of prompt tokens the free simulation caches more."""
        if self.free_cached_tokens is None:
            return None
        return 100 * (self.free_cached_tokens - self.live_cached_tokens) / self.prompt_tokens

    @property
    def latency(self) -> float | None:
        """Mean job latency of the free simulation over that of the live run."""
        return None if self.free_latency_s is None else self.free_latency_s / self.live_latency_s


class ComparedOptions(Options, frozen=True, kw_only=True):
    """What is compared, on a live engine and without a server."""

    trace: Annotated[Path, Argument(help="A trace, agentkv-trace/1, plain or zstd.")]
    cache_tokens: Annotated[int, Option(min=1, help="Size of the KV pool, in engine tokens.")]
    policies: Annotated[str, Option(help="Policies, in order, with commas.")] = POLICIES
    seeds: Annotated[str, Option(help="Seeds of tokens and of the jobs' order, with commas.")] = "1,2,3"
    model: Annotated[str, Option(help="A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama.")] = MODEL
    block_size: Annotated[int, Option(min=1, help="Engine tokens a cache block.")] = BLOCK_SIZE
    profile: Annotated[
        Path | None, Option(help="Cost profile of this engine, by `agentcache profile`; without it no latencies.")
    ] = None


SAID = (
    *("trace", "sessions", "max_calls", "max_ctx", "slots", "time_scale", "tokens_per_block", "seeds", "hints"),
    *("cache_tokens", "policies", "model", "dtype", "block_size", "max_batched_tokens", "profile", "json"),
)
"""The flags that there are."""


@taking(ComparedOptions, SAID)
def validate_sim(options: ComparedOptions) -> None:
    """Run the live engine and the simulator on the same jobs, and print how far they are apart.

    Driven: the simulator takes the live run's clock, step by step; cached tokens are expected to be equal. Free: it
    has the profile alone. Exit codes: 0 as expected, 1 not, 2 bad input.
    """
    prepared = prepare(options)
    with progress(prepared.plan.calls) as start:
        rows = [compare(spec, prepared.plan, start(f"{spec.policy}, seed {spec.seed}")) for spec in prepared.specs]
    if options.json:
        result = {
            "schema": SCHEMA,
            "trace": describe_trace(options.trace, prepared.plan),
            "host": describe_host(),
            "commit": commit(),
            "runs": [asdict(row) for row in rows],
        }
        write_json(options.json, result)
    Console(width=None if Console().is_terminal else 130).print(_table(rows))
    verdicts = list(judge(rows))
    for _, sentence in verdicts:
        print(sentence)
    if not all(fine for fine, _ in verdicts):
        raise typer.Exit(1)


def compare(spec: RunSpec, plan: ReplayPlan, advance: Callable[[int], None]) -> LiveBesideSim:
    """One live run, and both simulations of it. Raises `EngineError` when a call failed in the live run."""
    live = vllm_engine.run(structs.replace(spec, log=True), advance)
    if failed := next((call for call in live.calls if call.error), None):
        raise EngineError(f"turn {failed.turn} failed in the live run: {failed.error}; there is nothing to compare")
    jobs = shuffled(plan.jobs, spec.seed)
    renderer = Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, spec.seed)
    price = CostProfile.load(spec.profile) if spec.profile else prior_of(model_config(spec.model), warn)
    limits: Any = {"max_seqs": min(MAX_SEQS, spec.max_batched_tokens), "max_segments": MAX_SEGMENTS}
    driven = drive(live.steps, live.calls, jobs, renderer, CostModel(price, spec.block_size), spec, **limits)
    free = simulate(spec, jobs, renderer, price, as_live=True, **limits) if spec.profile else None
    return LiveBesideSim(
        policy=spec.policy,
        admission=spec.admission,
        seed=spec.seed,
        prompt_tokens=sum(call.prompt_tokens for call in live.calls),
        live_cached_tokens=_cached(live),
        driven=driven,
        live_latency_s=_latency_s(live),
        free_cached_tokens=_cached(free) if free else None,
        free_latency_s=_latency_s(free) if free else None,
    )


def _cached(result: RunResult) -> int:
    return sum(call.cached_tokens for call in result.calls)


def _latency_s(result: RunResult) -> float:
    return fmean(map(job_latency_s, result.jobs))


def judge(rows: list[LiveBesideSim]) -> Iterator[tuple[bool, str]]:
    """For each policy, whether its simulations are as close as expected, in a sentence."""
    for policy, group in groupby(sorted(rows, key=lambda row: row.policy), key=lambda row: row.policy):
        runs = list(group)
        calls = sum(row.driven.calls for row in runs)
        differ = sum(len(row.driven.differences) for row in runs)
        same = sum(row.driven.same_ends for row in runs)
        yield (
            not differ,
            f"{policy}: driven by the live clock, cached tokens are equal in {calls - differ} of {calls} calls; "
            f"{same} end in the same step",
        )
        points = [row.points for row in runs if row.points is not None]
        ratios = [row.latency for row in runs if row.latency is not None]
        if points and ratios:
            off, ratio = median(points), median(ratios)
            yield (
                abs(off) <= POINTS and abs(ratio - 1) <= LATENCY,
                f"{policy}: free, median of {len(runs)}: cached {off:+.2f} points (expected within {POINTS:g}), "
                f"mean job latency x{ratio:.3f} (expected within {LATENCY:.0%})",
            )


def _table(rows: list[LiveBesideSim]) -> Table:
    table = Table(box=SIMPLE, title="the live engine and its simulation", title_justify="left", title_style="bold")
    for heading in ("policy", "seed"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "cached live",
        "driven",
        "calls that differ",
        "free",
        "points",
        "job latency live s",
        "free s",
        "ratio",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.policy,
            str(row.seed),
            f"{row.live_cached_tokens:,}",
            f"{row.driven.cached_tokens:,}",
            f"{len(row.driven.differences)} of {row.driven.calls}",
            _shown(row.free_cached_tokens, ","),
            _shown(row.points, "+.2f"),
            f"{row.live_latency_s:.2f}",
            _shown(row.free_latency_s, ".2f"),
            _shown(row.latency, ".3f"),
        )
    return table


def _shown(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
