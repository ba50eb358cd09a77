"""How much of AgentCache an engine gets: the highest level that its configuration and its model are shown to bear.

What is not shown exact runs at a lower level; nothing but a wish (`level`, `on_unsupported`) keeps an engine from
starting.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from agentcache.errors import Unsupported
from agentcache.vllm_plugin.compat import (
    AttentionBackendEnum,
    BlockPool,
    FCFSRequestQueue,
    FullAttentionManager,
    FullAttentionSpec,
    KVCacheManager,
    PriorityRequestQueue,
    Request,
    is_stock,
    named_backend,
    own_connector,
)
from agentcache.vllm_plugin.config import EngineOptions, load_options


class Level(IntEnum):
    """What runs; each level has all of those below it.

    `OFF`: identity and receipts, nobody is held, vLLM's own order. `ADMIT`: admission. `ORDER`: our order of eviction,
    over the pool of all KV groups; look-up and allocation are vLLM's own. `HOLES`: reuse behind holes.
    """

    OFF = 0
    ADMIT = 1
    ORDER = 2
    HOLES = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Setup:
    """What rules look at: vLLM's configuration, the KV groups of the model, and the tokens under one block hash.

    `scheduler`: as vLLM has built it, where there is one.
    """

    config: Any
    groups: Sequence[Any]
    hash_block_size: int
    scheduler: Any = None

    @classmethod
    def of(cls, scheduler: Any) -> "Setup":
        """Of a scheduler as vLLM has built it."""
        groups = scheduler.kv_cache_config.kv_cache_groups
        return cls(scheduler.vllm_config, groups, scheduler.hash_block_size, scheduler)


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason for a lower level. `value(setup)` is what was found, in words, or None where the rule does not apply.

    `leaves`: the highest level that remains. `early`: decided by the configuration alone, before the model's layers
    are known.
    """

    name: str
    value: Callable[[Setup], str | None]
    sentence: str
    hint: str
    leaves: Level = Level.ORDER
    early: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The highest level that can be had, and by which rule no higher one, with what it found."""

    level: Level
    rule: Rule | None = None
    value: str | None = None

    @property
    def why(self) -> str | None:
        """Why no higher one, in words."""
        return f"{self.value}, and {self.rule.sentence}" if self.rule else None


# What was found, in words

KV_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_per_token_head", "int8_per_token_head")
"""Formats in which what is written for a token depends on that token alone."""


def _attention_type(setup: Setup) -> str | None:
    model = setup.config.model_config
    if model.runner_type == "pooling":
        return "this is a pooling model"
    if model.is_diffusion:
        return "this is a diffusion model"
    if model.attn_type.startswith("encoder"):
        return f"the model's attention is {model.attn_type}"
    if not getattr(model.hf_text_config, "is_causal", True) or setup.config.attention_config.use_non_causal:
        return "the model's attention is not causal"
    return None


def _groups(setup: Setup) -> str | None:
    if len(setup.groups) != 1:
        return f"the model has {len(setup.groups)} KV groups" + _named(setup.groups)
    spec = setup.groups[0].kv_cache_spec
    if (window := getattr(spec, "sliding_window", None)) is not None:
        return f"layers see a sliding window of {window} tokens"
    if (chunk := getattr(spec, "attention_chunk_size", None)) is not None:
        return f"layers see chunks of {chunk} tokens"
    if spec.__class__ is not FullAttentionSpec:
        return f"the model's KV layout is {type(spec).__name__}"
    return "layers are not causal" if spec.non_causal else None


def _named(groups: Sequence[Any]) -> str:
    names = dict.fromkeys(type(group.kv_cache_spec).__name__ for group in groups)
    return f" ({', '.join(names)})" if names else ""


def _context_parallel(setup: Setup) -> str | None:
    parallel = setup.config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if (size := getattr(parallel, name)) > 1:
            return f"{name} is {size}"
    return None


def _backend(setup: Setup) -> str | None:
    """The attention backend that was named; which one vLLM picks by itself, only the worker knows, and checks."""
    attention = setup.config.attention_config
    for backend in (attention.backend, *attention.backend_per_kind.values()):
        if backend is not None and writes_inside(found := named_backend(backend)):
            return f"attention backend {backend.name} {'writes K/V inside attention' if found else 'is unknown'}"
    return None


def writes_inside(backend: type | None) -> bool:
    """Whether K/V are written by attention itself, row by row, as vLLM assumes of a backend that does not say."""
    return bool(getattr(backend, "forward_includes_kv_cache_update", True))


def _hash_block(setup: Setup) -> str | None:
    size = setup.config.cache_config.block_size
    return None if setup.hash_block_size == size else f"hashes cover {setup.hash_block_size} tokens, blocks {size}"


def _pool(setup: Setup) -> str | None:
    """Whose pool the blocks are in, if it is not one of vLLM's own that all groups share."""
    if not setup.scheduler:
        return None
    manager = setup.scheduler.kv_cache_manager
    coordinator = getattr(manager, "coordinator", None)
    pools = [getattr(part, "block_pool", None) for part in (manager, *getattr(coordinator, "single_type_managers", ()))]
    if len(set(map(id, pools))) > 1:
        return "the KV groups are in pools of their own"
    return None if is_stock(pools[0], BlockPool) else f"the block pool is {_class_name(pools[0])}"


def _managers(setup: Setup) -> str | None:
    """Whose objects manage the blocks of the one group, if they are not vLLM's own."""
    if not setup.scheduler or len(setup.groups) != 1:
        return None
    manager = setup.scheduler.kv_cache_manager
    if not is_stock(manager, KVCacheManager):
        return f"the KV cache is managed by {_class_name(manager)}"
    group = manager.coordinator.single_type_managers[0]
    return None if is_stock(group, FullAttentionManager) else f"the KV group is managed by {_class_name(group)}"


def _queue(setup: Setup) -> str | None:
    if not setup.scheduler or any(
        is_stock(setup.scheduler.waiting, q) for q in (FCFSRequestQueue, PriorityRequestQueue)
    ):
        return None
    return f"requests wait in {_class_name(setup.scheduler.waiting)}"


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _foreign_worker(setup: Setup) -> str | None:
    worker = str(setup.config.parallel_config.worker_cls)
    known = worker == "auto" or worker.startswith(("vllm.v1.", "agentcache."))
    return None if known else f"the worker is {worker}"


def _connector(setup: Setup) -> str | None:
    given = setup.config.kv_transfer_config
    return f"KV connector {given.kv_connector} is on" if given else None


def _foreign_connector(setup: Setup) -> str | None:
    """A connector of which we cannot know what it does with the pool, or that walks along vLLM's own free queue."""
    given = setup.config.kv_transfer_config
    if not given:
        return None
    if not own_connector(given):
        return f"KV connector {given.kv_connector} does not come with vLLM"
    return _when("'lazy_offload': True" in str(given.kv_connector_extra_config), "lazy_offload is on")


def _when(condition: bool, value: str) -> str | None:
    return value if condition else None


def runs_our_worker(config: Any) -> bool:
    """Whether `--worker-cls` names a worker of AgentCache."""
    return str(config.parallel_config.worker_cls).startswith("agentcache.")


RULES = (
    # What the model is comes first: for some, vLLM itself switches prefix caching off.
    Rule(
        "no causal decoder",
        _attention_type,
        "a block can be reused behind a hole only where each token sees those before it and no other",
        "serve a decoder-only model that generates",
        Level.ADMIT,
    ),
    Rule(
        "states beside attention, or in its place",
        lambda s: _when(
            s.config.model_config.attn_type in ("hybrid", "attention_free"),
            f"the model's attention is {s.config.model_config.attn_type}",
        ),
        "a state holds all that came before it, so that none can be reused behind a hole",
        "serve a model with full attention",
    ),
    Rule(
        "MLA",
        lambda s: _when(s.config.model_config.use_mla, "the model has multi-head latent attention (MLA)"),
        "reuse behind holes has not been shown to be exact in its layout",
        "serve a model with full attention",
    ),
    Rule(
        "dual-chunk attention",
        lambda s: _when(
            hasattr(s.config.model_config.hf_config, "dual_chunk_attention_config"),
            "the model has dual-chunk attention",
        ),
        "it encodes positions by chunks of the whole context, not token by token",
        "serve the model's variant without dual_chunk_attention_config",
    ),
    Rule(
        "prefix caching off",
        lambda s: _when(not s.config.cache_config.enable_prefix_caching, "prefix caching is off"),
        "no block outlives its request, so there is nothing to keep",
        "leave --no-enable-prefix-caching out",
        Level.OFF,
    ),
    Rule(
        "chunked prefill off",
        lambda s: _when(not s.config.scheduler_config.enable_chunked_prefill, "chunked prefill is off"),
        "a prompt with holes may need more steps than one",
        "leave --no-enable-chunked-prefill out",
    ),
    Rule(
        "speculative decoding",
        lambda s: (spec := s.config.speculative_config) and f"speculative decoding by {spec.method} is on",
        "its look-ahead slots may be rejected again, which hole planning does not cover",
        "leave --speculative-config out",
    ),
    Rule(
        "KV connector",
        _connector,
        "it may load a missing block while that block is being rebuilt",
        "leave --kv-transfer-config and --kv-offloading-size out",
    ),
    Rule(
        "context parallelism",
        _context_parallel,
        "each block is then sharded over ranks, while holes are planned in whole blocks",
        "use tensor parallelism",
        Level.ADMIT,
    ),
    Rule(
        "pipeline parallelism",
        lambda s: _when(
            (size := s.config.parallel_config.pipeline_parallel_size) > 1, f"pipeline_parallel_size is {size}"
        ),
        "several steps are then under way at once, which jumps over resident blocks have not been tried with",
        "use tensor parallelism",
    ),
    Rule(
        "KV cache format",
        lambda s: _when(
            (dtype := str(s.config.cache_config.cache_dtype)) not in KV_DTYPES, f"the KV cache is kept as {dtype}"
        ),
        "what is written for a token may then depend on what is computed beside it",
        "use --kv-cache-dtype auto or fp8",
    ),
    Rule(
        "attention backend",
        _backend,
        "a row would read keys that another row of its step has not written yet",
        "leave --attention-backend to vLLM or name another",
    ),
    Rule(
        "auxiliary outputs",
        lambda s: _when(s.config.aux_output_config.enabled, "routed experts are returned"),
        "they are wanted for every position of a prompt, also for those that are not computed again",
        "leave --enable-return-routed-experts out",
    ),
    Rule(
        "model runner V2 with a stock worker",
        lambda s: _when(
            s.config.use_v2_model_runner and not runs_our_worker(s.config),
            f"the V2 model runner runs in {s.config.parallel_config.worker_cls}",
        ),
        "it counts computed tokens on the device and follows a jump over resident blocks only in AgentCache's worker",
        "name AgentCache's worker class, as `agentcache serve` does",
    ),
    Rule(
        "worker of another plug-in",
        _foreign_worker,
        "whether it follows jumps over resident blocks is not known",
        "leave --worker-cls out",
    ),
    Rule(
        "KV connector of unknown ways",
        _foreign_connector,
        "it may pin blocks of its own, or count on the order in which vLLM evicts them",
        "use a connector that comes with vLLM, without lazy_offload",
        Level.ADMIT,
    ),
    Rule(
        "not one full-attention group",
        _groups,
        "sliding-window, chunked, Mamba, hybrid and similar layers keep state that a block behind a hole does not "
        "determine",
        "serve a model whose layers all have full attention",
        early=False,
    ),
    Rule(
        "hash blocks differ from cache blocks",
        _hash_block,
        "a hit may then end inside a block",
        "leave --prefix-match-unit out",
        early=False,
    ),
    Rule(
        "managers of another plug-in",
        _managers,
        "it is not known how they look up and allocate",
        "switch the other plug-in off",
        early=False,
    ),
    Rule(
        "block pool of another kind",
        _pool,
        "its order of eviction is not ours to change",
        "switch the other plug-in off",
        Level.ADMIT,
        early=False,
    ),
    Rule(
        "waiting queue of another plug-in",
        _queue,
        "its order is not ours to change",
        "switch the other plug-in off",
        Level.OFF,
        early=False,
    ),
)
"""Why an engine gets less than `holes`."""


def verdict(setup: Setup, early: bool = False) -> Verdict:
    """The highest level that can be had; `early`: by the rules that need no KV groups."""
    lowest = Verdict(Level.HOLES)
    for rule in RULES:
        if rule.leaves < lowest.level and (rule.early or not early) and (value := rule.value(setup)):
            lowest = Verdict(rule.leaves, rule, value)
    return lowest


def choose(found: Verdict, options: EngineOptions) -> Level | None:
    """The level to run at, for these options; None leaves the engine to vLLM, as was asked for.

    Raises `Unsupported` for a level that cannot be had, and for anything but reuse behind holes where nothing else is
    wanted.
    """
    wanted = Level[options.level.upper()] if options.level else None
    if wanted is None and options.on_unsupported == "lower":
        return found.level
    if found.level >= (wanted or Level.HOLES):
        return wanted or found.level
    if options.on_unsupported == "stock":
        return None
    assert found.rule
    raise Unsupported(
        f"level {wanted or Level.HOLES} cannot be had here, {found.level} can: {found.why}; not started",
        hint=f"{found.rule.hint}, or leave {'level' if wanted else 'on_unsupported'} out to run at the highest level",
    )


def _fused_worker(config: Any) -> str | None:
    worker, attention = str(config.parallel_config.worker_cls), config.attention_config
    if worker.startswith("agentcache.vllm_plugin.cpu_worker."):
        return None
    if not runs_our_worker(config):
        return f"worker class {worker} does not run rows with holes"
    if attention.backend is not AttentionBackendEnum.CUSTOM or attention.backend_per_kind:
        return "only attention backend CUSTOM runs rows with holes on a GPU"
    return None


def _more_positions(config: Any) -> str | None:
    return _when(
        config.model_config.uses_mrope,
        "the model's tokens have several positions each (M-RoPE), which vLLM numbers by rows without holes",
    )


FUSED_RULES: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    ("worker", _fused_worker),
    ("several positions a token", _more_positions),
    (
        "KV-sharing fast prefill",
        lambda c: _when(
            c.cache_config.kv_sharing_fast_prefill, "KV-sharing fast prefill builds its own rows, which have no holes"
        ),
    ),
    (
        "micro-batches",
        lambda c: _when(c.parallel_config.use_ubatching, "micro-batches (DBO) cut rows where they have no holes"),
    ),
)
"""Why fused steps cannot run, so that sequential ones do, one hole a step: name, and why if it applies."""


def why_not_fused(config: Any) -> str | None:
    """Why this configuration runs in sequential mode; None where fused steps run."""
    return next((why for _, rule in FUSED_RULES if (why := rule(config))), None)


def check_backends(config: Any, kv_cache_config: Any, backends: Sequence[type]) -> None:
    """A worker's last word: raise `Unsupported` for a backend, picked by vLLM, that cannot run the rows to come."""
    options = load_options(config.additional_config)
    setup = Setup(config, kv_cache_config.kv_cache_groups, config.cache_config.block_size)
    if not str(config.scheduler_config.scheduler_cls).startswith("agentcache."):
        return
    found = verdict(setup)
    if found.level < Level.HOLES or choose(found, options) is not Level.HOLES:
        return  # stock rows will come, or none: the scheduler says so
    fused = options.mode == "fused" and not why_not_fused(config)
    for backend in backends:
        inside = writes_inside(backend)
        if inside or (fused and not backend.__module__.startswith("agentcache.")):
            raise Unsupported(
                f"vLLM has picked attention backend {backend.__qualname__}, which "
                + ("writes K/V inside attention" if inside else "does not run rows with holes")
                + "; the engine cannot start",
                hint="name another by --attention-backend" + ("" if inside else ", or set mode to sequential"),
            )


REQUEST_REASONS = ("prompt_logprobs", "pooling", "multimodal", "prompt_embeds", "resumable", "skips_cache")


def stock_only(request: Request) -> str | None:
    """Why this request alone gets stock prefix caching: one of `REQUEST_REASONS`, or None where holes may be reused."""
    params = request.sampling_params
    if params is not None and params.prompt_logprobs is not None:
        return "prompt_logprobs"  # wanted of every position, also of those behind a hole
    if request.pooling_params is not None:
        return "pooling"
    if request.mm_features:
        return "multimodal"  # encoder outputs are scheduled for rows without holes
    if request.prompt_embeds is not None:
        return "prompt_embeds"  # copied by the row
    if request.resumable:
        return "resumable"  # its prompt grows while it runs
    return "skips_cache" if request.skip_reading_prefix_cache else None
