"""One run of `agentcache replay --engine sim`, in this process."""

from collections.abc import Callable
from functools import lru_cache

from msgspec import structs

from agentcache.cost import CostProfile
from agentcache_workloads.replay.accounts.idle import IdleMeter
from agentcache_workloads.replay.accounts.watch import Watcher
from agentcache_workloads.replay.engines.base import Target
from agentcache_workloads.replay.engines.queueing import simulate
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.jobs import shuffled
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import STOCK, Options, RunSpec, Selection

PROFILE = "h200-like"
VOCABULARY = 1 << 16  # tokens are never rendered in the simulation
ALONE = {
    "policy": STOCK,
    "admission": "fcfs",
    "slots": 1,
    "watch": False,
    "oracle": False,
    "host_memory": None,
}
FORESIGHT: frozenset[str] = frozenset({"pauses"})
SERVED = False


def adopt(options: Options) -> Options:
    """As they are."""
    return options


def target(options: Options) -> Target:
    """A profile: it is all that there is of a model."""
    name = str(options.profile or PROFILE)
    return Target("", VOCABULARY, None, CostProfile.named(name), name)


def run(spec: RunSpec, advance: Callable[[int], None], before: RunResult | None = None) -> RunResult:
    """Run a spec to its end, `before` or not; `advance` hears of the calls that are done."""
    result = _simulate(spec, advance, IdleMeter(spec.block_size))
    return structs.replace(
        result,
        alone_s=_alone(structs.replace(spec, **ALONE)),
    )


def _simulate(spec: RunSpec, advance: Callable[[int], None], idle: IdleMeter | None = None) -> RunResult:
    plan = _plan(spec.trace, spec.selection)
    jobs = shuffled(plan.jobs, spec.seed)
    assert spec.profile
    return simulate(
        spec,
        jobs,
        Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, spec.seed),
        CostProfile.named(spec.profile),
        arrivals=arrival_times(spec.arrival, jobs, spec.seed, spec.time_scale),
        advance=advance,
        watcher=Watcher() if spec.watch else None,
        idle=idle,
    )


@lru_cache(maxsize=16)
def _alone(spec: RunSpec) -> dict[str, float]:
    """Each job's latency with the engine to itself: all of them, one after the other."""
    result = _simulate(structs.replace(spec, arrival="closed"), lambda calls: None)
    return {job.job: job.ended_s - job.arrived_s for job in result.jobs}


@lru_cache(maxsize=1)
def _plan(trace: str, selection: Selection) -> ReplayPlan:
    return load_plan(trace, selection)
