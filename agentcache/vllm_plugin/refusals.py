"""What would not be exact, or has not been shown to be: refused at start-up, done in sequence, or left to stock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentcache.errors import Unsupported
from agentcache.vllm_plugin.compat import (
    AttentionBackendEnum,
    FullAttentionManager,
    FullAttentionSpec,
    KVCacheManager,
    Request,
    expect_stock,
    named_backend,
)
from agentcache.vllm_plugin.config import load_options


@dataclass(frozen=True, slots=True)
class Setup:
    """What rules look at: vLLM's configuration, the KV groups of the model, and the tokens under one block hash."""

    config: Any
    groups: Sequence[Any]
    hash_block_size: int

    @classmethod
    def of(cls, scheduler: Any) -> "Setup":
        """Of a scheduler as vLLM has built it."""
        return cls(scheduler.vllm_config, scheduler.kv_cache_config.kv_cache_groups, scheduler.hash_block_size)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason to refuse. `value(setup)` is what was found, in words, or None where the rule does not apply.

    `early`: decided by the configuration alone, before the model's layers are known.
    """

    name: str
    value: Callable[[Setup], str | None]
    sentence: str
    hint: str
    early: bool = True

    def error(self, value: str) -> Unsupported:
        return Unsupported(
            f"AgentCache cannot promise exact reuse here: {value}, and {self.sentence}",
            hint=f"{self.hint}, or set on_unsupported to 'stock' to run stock prefix caching",
        )


# What was found, in words

KV_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_per_token_head", "int8_per_token_head")
"""Formats in which what is written for a token depends on that token alone."""


def _attention_type(setup: Setup) -> str | None:
    model = setup.config.model_config
    if model.runner_type == "pooling":
        return "this is a pooling model"
    if model.is_diffusion:
        return "this is a diffusion model"
    if model.attn_type != "decoder":
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


def _when(condition: bool, value: str) -> str | None:
    return value if condition else None


def runs_our_worker(config: Any) -> bool:
    """Whether `--worker-cls` names a worker of AgentCache."""
    return str(config.parallel_config.worker_cls).startswith("agentcache.")


RULES = (
    # What the model is comes first: for some, vLLM itself switches prefix caching off.
    Refusal(
        "no causal decoder",
        _attention_type,
        "a block can be reused behind a hole only where each token sees those before it and no other",
        "serve a decoder-only model that generates",
    ),
    Refusal(
        "MLA",
        lambda s: _when(s.config.model_config.use_mla, "the model has multi-head latent attention (MLA)"),
        "reuse behind holes has not been shown to be exact in its layout",
        "serve a model with full attention",
    ),
    Refusal(
        "dual-chunk attention",
        lambda s: _when(
            hasattr(s.config.model_config.hf_config, "dual_chunk_attention_config"),
            "the model has dual-chunk attention",
        ),
        "it encodes positions by chunks of the whole context, not token by token",
        "serve the model's variant without dual_chunk_attention_config",
    ),
    Refusal(
        "prefix caching off",
        lambda s: _when(not s.config.cache_config.enable_prefix_caching, "prefix caching is off"),
        "no block outlives its request, so there is nothing to keep",
        "leave --no-enable-prefix-caching out",
    ),
    Refusal(
        "chunked prefill off",
        lambda s: _when(not s.config.scheduler_config.enable_chunked_prefill, "chunked prefill is off"),
        "a prompt with holes may need more steps than one",
        "leave --no-enable-chunked-prefill out",
    ),
    Refusal(
        "speculative decoding",
        lambda s: (spec := s.config.speculative_config) and f"speculative decoding by {spec.method} is on",
        "its look-ahead slots may be rejected again, which hole planning does not cover",
        "leave --speculative-config out",
    ),
    Refusal(
        "KV connector",
        lambda s: (given := s.config.kv_transfer_config) and f"KV connector {given.kv_connector} is on",
        "it may load a missing block while that block is being rebuilt",
        "leave --kv-transfer-config and --kv-offloading-size out",
    ),
    Refusal(
        "context parallelism",
        _context_parallel,
        "each block is then sharded over ranks, while holes are planned in whole blocks",
        "use tensor parallelism",
    ),
    Refusal(
        "pipeline parallelism",
        lambda s: _when(
            (size := s.config.parallel_config.pipeline_parallel_size) > 1, f"pipeline_parallel_size is {size}"
        ),
        "several steps are then under way at once, which jumps over resident blocks have not been tried with",
        "use tensor parallelism",
    ),
    Refusal(
        "KV cache format",
        lambda s: _when(
            (dtype := str(s.config.cache_config.cache_dtype)) not in KV_DTYPES, f"the KV cache is kept as {dtype}"
        ),
        "what is written for a token may then depend on what is computed beside it",
        "use --kv-cache-dtype auto or fp8",
    ),
    Refusal(
        "attention backend",
        _backend,
        "a row would read keys that another row of its step has not written yet",
        "leave --attention-backend to vLLM or name another",
    ),
    Refusal(
        "auxiliary outputs",
        lambda s: _when(s.config.aux_output_config.enabled, "routed experts are returned"),
        "they are wanted for every position of a prompt, also for those that are not computed again",
        "leave --enable-return-routed-experts out",
    ),
    Refusal(
        "model runner V2 with a stock worker",
        lambda s: _when(
            s.config.use_v2_model_runner and not runs_our_worker(s.config),
            f"the V2 model runner runs in {s.config.parallel_config.worker_cls}",
        ),
        "it counts computed tokens on the device and follows a jump over resident blocks only in AgentCache's worker",
        "name AgentCache's worker class, as `agentcache serve` does",
    ),
    Refusal(
        "not one full-attention group",
        _groups,
        "sliding-window, chunked, Mamba, hybrid and similar layers keep state that a block behind a hole does not "
        "determine",
        "serve a model whose layers all have full attention",
        early=False,
    ),
    Refusal(
        "hash blocks differ from cache blocks",
        _hash_block,
        "a hit may then end inside a block",
        "leave --prefix-match-unit out",
        early=False,
    ),
)
"""What is refused altogether."""


def refusal(setup: Setup, early: bool = False) -> tuple[Refusal, str] | None:
    """The first rule that applies, with what it found; `early`: of those that need no KV groups."""
    for rule in RULES:
        if (rule.early or not early) and (value := rule.value(setup)):
            return rule, value
    return None


def refuse(scheduler: Any) -> None:
    """Raise `Unsupported` with the first rule that applies to this scheduler, or if its parts are not vLLM's own."""
    if found := refusal(Setup.of(scheduler)):
        rule, value = found
        raise rule.error(value)
    manager = scheduler.kv_cache_manager
    expect_stock(manager, KVCacheManager)
    expect_stock(manager.coordinator.single_type_managers[0], FullAttentionManager)


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
"""What is refused in fused mode only, so that sequential mode runs, one hole a step: name, and why if it applies."""


def why_not_fused(config: Any) -> str | None:
    """Why this configuration runs in sequential mode; None where fused steps run."""
    return next((why for _, rule in FUSED_RULES if (why := rule(config))), None)


def check_backends(config: Any, kv_cache_config: Any, backends: Sequence[type]) -> None:
    """A worker's last word: raise `Unsupported` for a backend, picked by vLLM, that cannot run the rows to come."""
    options = load_options(config.additional_config)
    setup = Setup(config, kv_cache_config.kv_cache_groups, config.cache_config.block_size)
    if not str(config.scheduler_config.scheduler_cls).startswith("agentcache.") or refusal(setup):
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
