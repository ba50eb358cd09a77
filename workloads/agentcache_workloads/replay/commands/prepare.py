"""Checks everything that a replay will need before its first engine starts, and turns it into runs."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import structs

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import LoadPrice
from agentcache.errors import ConfigError
from agentcache.files import check_writable
from agentcache.policy import make_policy, names
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.specs import Spec, split_layers
from agentcache_workloads.replay.commands.flags import check_choices
from agentcache_workloads.replay.engines.base import ReplayEngine, Target, one_of
from agentcache_workloads.replay.engines.recorded_times import mean_live_tokens
from agentcache_workloads.replay.engines.table import ENGINES
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import (
    BLOCK_SIZE,
    MODEL,
    POLICIES,
    STOCK,
    STOCK_ADMISSION,
    Options,
    RunSetting,
    RunSpec,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Runs in the order in which they are made: for each seed all rows, so that what is compared is close in time.

    Each policy runs under each admission; stock vLLM has its own alone. `cost` prices tokens where anybody can.
    """

    plan: ReplayPlan
    specs: tuple[RunSpec, ...]
    live_pool: float
    cost: CostModel | None = None


def prepare(options: Options) -> Prepared:
    """Check all of it. Raises `ConfigError` or `InputError`; nothing has been started or written then."""
    check_choices(options)
    engine = ENGINES[options.engine]
    if engine.SERVED is (options.remote is None):
        raise ConfigError(
            f"--engine is {options.engine}, and there is {'a' if options.remote else 'no'} --url; nothing was started",
            hint="--engine http --url http://127.0.0.1:8000 drives a server that runs already",
        )
    if engine.SERVED and options.host_memory:
        raise ConfigError(
            f"--host-tokens {options.host_memory.tokens} is for engines that are started here, and --engine is "
            f"{options.engine}; nothing was started",
            hint="leave it out, or give `agentcache serve` its --host-memory",
        )
    _check_outputs(options.json, options.html)
    options = engine.adopt(options)
    policies = _policies(options, engine)
    admissions = split_specs("--admission", options.admission, BUILT)
    for admission in admissions:
        parse_admission(admission)
    parse_chunking(options.chunking)
    seeds = parse_seeds(options.seeds)
    plan = load_plan(options.trace, options.selection)
    arrival_times(options.arrival, plan.jobs, seed=0)
    if options.cache_tokens is None:
        raise ConfigError(
            "--cache-tokens is missing: the size of the KV pool, in engine tokens; nothing was started",
            hint="a server that has /metrics of vLLM's says it itself" if options.remote else None,
        )
    spec, target = _settled(options, options.cache_tokens, engine, plan)
    oracles = _oracles(spec, target, engine, policies)
    specs = tuple(
        structs.replace(spec, policy=policy, admission=admission, seed=seed, oracle=policy in oracles)
        for seed in seeds
        for policy in policies
        for admission in ([STOCK_ADMISSION] if policy == STOCK else admissions)
    )
    renderer = Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, seed=0)
    live = mean_live_tokens(plan.jobs, spec.slots, renderer, spec.tokens_per_block)
    cost = CostModel(target.profile, spec.block_size) if target.profile else None
    return Prepared(plan, specs, live / (spec.cache_blocks * spec.block_size), cost)


def _policies(options: Options, engine: ReplayEngine) -> list[str]:
    known = [STOCK, *names()]
    policies = split_specs("--policies", options.policies or POLICIES, known)
    if not engine.SERVED:
        for policy in policies:
            for part in split_layers(policy):
                one_of("policy", Spec("policy", part).name, known)
    elif len(policies) > 1:
        raise ConfigError(
            f"--policies is {options.policies!r}, but a server runs one policy; nothing was started",
            hint="name the one that it runs, or leave the flag out",
        )
    return policies


def _settled(options: Options, cache_tokens: int, engine: ReplayEngine, plan: ReplayPlan) -> tuple[RunSpec, Target]:
    """The run that all rows are variants of, as stock vLLM's, and what it runs on; every turn fits in there."""
    k = options.tokens_per_block or plan.meta.block_size or 1
    size = options.block_size or BLOCK_SIZE
    target = engine.target(options)
    renderer = Renderer(plan.meta, k, target.vocab_size, seed=0)
    context, turn = max(((renderer.sizes(t).total, t.id) for job in plan.jobs for t in job.turns), key=lambda x: x[0])
    if target.max_tokens is not None and context + 1 > target.max_tokens:
        raise ConfigError(
            f"turn {turn} has {context} tokens when rendered, model {options.model or MODEL} takes "
            f"{target.max_tokens - 1}; nothing was started",
            hint="lower --tokens-per-block or --max-ctx",
        )
    blocks = cache_tokens // size
    need = -(-context // size) + 1
    if blocks < need:
        raise ConfigError(
            f"--cache-tokens {cache_tokens} is {blocks} blocks of {size} tokens, expected at "
            f"least {need}: turn {turn} has {context} tokens and could never run; nothing was started",
            hint=f"give --cache-tokens {need * size} or more, or lower --max-ctx",
        )
    _check_host_memory(options, need, size)
    as_said: Any = {name: getattr(options, name) for name in RunSetting.__struct_fields__}
    spec = RunSpec(
        **as_said,
        policy=STOCK,
        trace=str(options.trace.resolve()),
        profile=target.profile_name,
        tokens_per_block=k,
        model=target.model,
        vocab_size=target.vocab_size,
        block_size=size,
        cache_blocks=blocks,
        max_context_tokens=context,
        watch=options.html is not None,
    )
    return spec, target


def _oracles(spec: RunSpec, target: Target, engine: ReplayEngine, policies: Sequence[str]) -> Set[str]:
    """The policies that are told of the future. Raises `ConfigError` for one that nobody tells here."""
    if engine.SERVED or not target.profile:
        return frozenset()
    there = engine.FORESIGHT if spec.hints else frozenset()
    cost = CostModel(target.profile, spec.block_size)
    oracles = set()
    for policy in policies:
        if policy != STOCK and (needs := make_policy(policy, cost, spec.cache_blocks).needs):
            _check_needs(policy, needs, there)
            oracles.add(policy)
    return oracles


def split_specs(flag: str, text: str, known: Sequence[str]) -> list[str]:
    """`a,b:x=1,y=2,c` is three: `a`, `b:x=1,y=2` and `c`. Raises `ConfigError` for none and for two alike."""
    specs: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if specs and "=" in part and ":" not in part:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    if not specs or len(set(specs)) < len(specs):
        raise ConfigError(
            f"{flag} is {text!r}, expected one or more names, each once; nothing was started",
            hint="known: " + ", ".join(known),
        )
    return specs


def parse_seeds(text: str) -> list[int]:
    """`1,2,3`; raises `ConfigError` for anything but different whole numbers >= 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ConfigError(
            f"--seeds is {text!r}, expected different whole numbers, as in 1,2,3; nothing was started",
        )
    return [int(part) for part in parts]


def _check_needs(policy: str, needs: Set[str], there: Set[str]) -> None:
    if missing := needs - there:
        raise ConfigError(
            f"policy {policy} needs {', '.join(sorted(missing))}, which nobody tells it here; nothing was started",
            hint="pauses are told by --engine sim with hints, the future by the fixed schedule: `agentcache results`",
        )


def _check_host_memory(options: Options, need_blocks: int, block_size: int) -> None:
    """Raise `ConfigError` for a tier that the run cannot have: its policy, its speed, its size."""
    if (host := options.host_memory) is None:
        return
    if host.tokens // block_size < need_blocks:
        raise ConfigError(
            f"--host-tokens {host.tokens} is {host.tokens // block_size} blocks of {block_size} tokens, expected at "
            f"least {need_blocks}, those of the largest context; nothing was started",
            hint=f"give --host-tokens {need_blocks * block_size} or more, or leave it out",
        )
    LoadPrice.of_link(host.token_bytes * block_size, 1e9 * host.gbps)
    for part in split_layers(host.policy):
        one_of("policy", Spec("policy", part).name, names())
    if needs := make_policy(host.policy, CostModel(CostProfile(c_lin=1.0, c_att=0.0), block_size), 1).needs:
        _check_needs(host.policy, needs, frozenset())


def _check_outputs(json_path: Path | None, html_path: Path | None) -> None:
    """Fail now rather than after minutes of measuring."""
    for flag, path in (("--json", json_path), ("--html", html_path)):
        check_writable(flag, path)
    if json_path and html_path and json_path.resolve() == html_path.resolve():
        raise ConfigError(f"--json and --html are both {json_path}; nothing was started", hint="name two files")
    if html_path:
        for package in ("jinja2", "matplotlib"):
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
