"""Checks everything that a replay will need before its first engine starts, and turns it into runs."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.files import check_writable
from agentcache.policy import make_policy, names
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.specs import Spec, split_layers
from agentcache_workloads.replay.engines.base import BLOCK_SIZE, MODEL, STOCK_ADMISSION, Options, one_of
from agentcache_workloads.replay.engines.fixed_schedule import mean_live_tokens
from agentcache_workloads.replay.engines.table import ENGINES
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.plan import Plan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import STOCK, RunSpec

POLICIES = f"{STOCK},lru-holes,return-index"
DTYPES = ("float32", "bfloat16", "float16")
MODES = ("fused", "sequential")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Runs in the order in which they are made: for each seed all rows, so that what is compared is close in time.

    Each policy runs under each admission; stock vLLM has its own alone. `cost` prices tokens where anybody can.
    """

    plan: Plan
    specs: tuple[RunSpec, ...]
    live_pool: float
    cost: CostModel | None = None


def prepare(options: Options) -> Prepared:
    """Check all of it. Raises `ConfigError` or `InputError`; nothing has been started or written then."""
    one_of("--engine", options.engine, list(ENGINES))
    one_of("--dtype", options.dtype, DTYPES)
    one_of("--mode", options.mode, MODES)
    engine = ENGINES[options.engine]
    _check_outputs(options.json, options.html)
    options = engine.adopt(options)
    policies = split_specs("--policies", options.policies or POLICIES, [STOCK, *names()])
    if engine.CHOOSES_POLICY:
        known = [STOCK, *names()]
        for policy in policies:
            for part in split_layers(policy):
                one_of("policy", Spec("policy", part).name, known)
    elif len(policies) > 1:
        raise ConfigError(
            f"--policies is {options.policies!r}, but a server runs one policy; nothing was started",
            hint="name the one that it runs, or leave the flag out",
        )
    admissions = split_specs("--admission", options.admission, BUILT)
    for admission in admissions:
        parse_admission(admission)
    parse_chunking(options.chunking)
    seeds = parse_seeds(options.seeds)
    plan = load_plan(options.trace, options.selection)
    arrival_times(options.arrival, plan.jobs, seed=0)
    k = options.tokens_per_block or plan.meta.block_size or 1
    if options.cache_tokens is None:
        raise ConfigError(
            "--cache-tokens is missing: the size of the KV pool, in engine tokens; nothing was started",
            hint="a server that has /metrics of vLLM's says it itself" if options.remote else None,
        )
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
    blocks = options.cache_tokens // size
    need = -(-context // size) + 1
    if blocks < need:
        raise ConfigError(
            f"--cache-tokens {options.cache_tokens} is {blocks} blocks of {size} tokens, expected at "
            f"least {need}: turn {turn} has {context} tokens and could never run; nothing was started",
            hint=f"give --cache-tokens {need * size} or more, or lower --max-ctx",
        )
    oracles = set()
    for policy in policies:
        if policy != STOCK and target.profile and engine.CHOOSES_POLICY:
            needs = make_policy(policy, CostModel(target.profile, size), blocks).needs
            _check_needs(policy, needs, engine.FORESIGHT if options.hints else frozenset())
            oracles |= {policy} if needs else set()

    spec = RunSpec(
        trace=str(options.trace.resolve()),
        selection=options.selection,
        policy=STOCK,
        admission=STOCK_ADMISSION,
        profile=target.profile_name,
        mode=options.mode,
        seed=0,
        slots=options.slots,
        time_scale=options.time_scale,
        tokens_per_block=k,
        hints=options.hints,
        model=target.model,
        vocab_size=target.vocab_size,
        dtype=options.dtype,
        block_size=size,
        cache_blocks=blocks,
        max_batched_tokens=options.max_batched_tokens,
        max_context_tokens=context,
        chunking=options.chunking,
        engine=options.engine,
        arrival=options.arrival,
        remote=options.remote,
        watch=options.html is not None,
    )
    specs = tuple(
        msgspec.structs.replace(spec, policy=policy, admission=admission, seed=seed, oracle=policy in oracles)
        for seed in seeds
        for policy in policies
        for admission in ([STOCK_ADMISSION] if policy == STOCK else admissions)
    )
    live = mean_live_tokens(plan.jobs, options.slots, renderer, k)
    cost = CostModel(target.profile, size) if target.profile else None
    return Prepared(plan, specs, live / (blocks * size), cost)


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
