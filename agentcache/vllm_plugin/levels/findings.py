"""What rules find in a configuration, a model or a scheduler that vLLM has built: words for it, or None."""

from collections.abc import Sequence
from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.compat import (
    BlockPool,
    FCFSRequestQueue,
    FullAttentionManager,
    FullAttentionSpec,
    KVCacheManager,
    MLAAttentionSpec,
    PriorityRequestQueue,
    is_stock,
    named_backend,
    own_connector,
)
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.levels.rule import Setup

TEXT_DRAFTS = ("ngram", "suffix")
"""Methods of speculation that have no K/V of their own: a draft is read off the tokens that are there."""

KV_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_per_token_head", "int8_per_token_head")
"""Formats in which what is written for a token depends on that token alone."""


def attention_type(setup: Setup) -> str | None:
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


def groups(setup: Setup) -> str | None:
    if len(setup.groups) != 1:
        return f"the model has {len(setup.groups)} KV groups" + _kinds(setup.groups)
    # Layers of one group may differ in heads and in their sizes: a block is then a page of each.
    layers = compat.iter_layer_specs(setup.groups[0].kv_cache_spec)
    full = MLAAttentionSpec if setup.config.model_config.use_mla else FullAttentionSpec
    return next((why for layer in layers if (why := _not_full(layer, full))), None)


def _not_full(layer: Any, full: type) -> str | None:
    if (window := getattr(layer, "sliding_window", None)) is not None:
        return f"layers see a sliding window of {window} tokens"
    if (chunk := getattr(layer, "attention_chunk_size", None)) is not None:
        return f"layers see chunks of {chunk} tokens"
    if layer.__class__ is not full or layer.tokens_per_state != 1:
        return f"the model's KV layout is {type(layer).__name__}"
    return "layers are not causal" if layer.non_causal else None


def _kinds(groups: Sequence[Any]) -> str:
    names = dict.fromkeys(type(group.kv_cache_spec).__name__ for group in groups)
    return f" ({', '.join(names)})" if names else ""


def latents(setup: Setup) -> str | None:
    """MLA, unless it is asked for behind holes; never with an indexer, whose own keys are another backend's."""
    model = setup.config.model_config
    if not model.use_mla:
        return None
    if hasattr(model.hf_text_config, "index_topk"):
        return "the model has multi-head latent attention (MLA) over keys that an indexer picks"
    asked = load_options(setup.config.additional_config).mla_holes
    return when(not asked, "the model has multi-head latent attention (MLA)")


def drafts(setup: Setup) -> str | None:
    """Speculation, but for what the first model runner drafts out of the text alone."""
    given = setup.config.speculative_config
    if given is None or (given.method in TEXT_DRAFTS and not setup.config.use_v2_model_runner):
        return None
    return f"speculative decoding by {given.method} is on"


def merged_groups(setup: Setup) -> str | None:
    """Windows or chunks in one group with full attention: vLLM tells a scheduler of one layer of each group alone."""
    text = setup.config.model_config.hf_text_config
    for name in ("sliding_window", "attention_chunk_size"):
        if (size := getattr(text, name, None)) and setup.config.scheduler_config.disable_hybrid_kv_cache_manager:
            return f"the model has {name} {size}, and the hybrid KV cache manager is off"
    return None


def context_parallel(setup: Setup) -> str | None:
    parallel = setup.config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if (size := getattr(parallel, name)) > 1:
            return f"{name} is {size}"
    return None


def attention_backend(setup: Setup) -> str | None:
    """The attention backend that was named; which one vLLM picks by itself, only the worker knows, and checks."""
    attention = setup.config.attention_config
    for backend in (attention.backend, *attention.backend_per_kind.values()):
        if backend is not None and writes_inside(found := named_backend(backend)):
            return f"attention backend {backend.name} {'writes K/V inside attention' if found else 'is unknown'}"
    return None


def writes_inside(backend: type | None) -> bool:
    """Whether K/V are written by attention itself, row by row, as vLLM assumes of a backend that does not say."""
    if getattr(backend, "is_mla", bool)():
        return False  # an op of its own writes the latents of all rows, whatever the backend
    return bool(getattr(backend, "forward_includes_kv_cache_update", True))


def hash_block(setup: Setup) -> str | None:
    size = setup.config.cache_config.block_size
    return None if setup.hash_block_size == size else f"hashes cover {setup.hash_block_size} tokens, blocks {size}"


def pool(setup: Setup) -> str | None:
    """Whose pool the blocks are in, if it is not one of vLLM's own that all groups share."""
    if not setup.scheduler:
        return None
    manager = setup.scheduler.kv_cache_manager
    coordinator = getattr(manager, "coordinator", None)
    pools = [getattr(part, "block_pool", None) for part in (manager, *getattr(coordinator, "single_type_managers", ()))]
    if len(set(map(id, pools))) > 1:
        return "the KV groups are in pools of their own"
    return None if is_stock(pools[0], BlockPool) else f"the block pool is {_class_name(pools[0])}"


def managers(setup: Setup) -> str | None:
    """Whose objects manage the blocks of the one group, if they are not vLLM's own."""
    if not setup.scheduler or len(setup.groups) != 1:
        return None
    manager = setup.scheduler.kv_cache_manager
    if not is_stock(manager, KVCacheManager):
        return f"the KV cache is managed by {_class_name(manager)}"
    group = manager.coordinator.single_type_managers[0]
    return None if is_stock(group, FullAttentionManager) else f"the KV group is managed by {_class_name(group)}"


def queue(setup: Setup) -> str | None:
    if not setup.scheduler or any(
        is_stock(setup.scheduler.waiting, q) for q in (FCFSRequestQueue, PriorityRequestQueue)
    ):
        return None
    return f"requests wait in {_class_name(setup.scheduler.waiting)}"


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def foreign_scheduler(setup: Setup) -> str | None:
    """A scheduler that does not have ours among its bases, where one is named that has yet to be built."""
    if setup.scheduler or setup.config.scheduler_config.scheduler_cls is None:
        return None
    named = setup.config.scheduler_config.get_scheduler_cls()
    ours = any(base.__module__.startswith("agentcache.") for base in named.__mro__)
    return None if ours else f"the scheduler is {named.__module__}.{named.__qualname__}"


def foreign_worker(setup: Setup) -> str | None:
    worker = str(setup.config.parallel_config.worker_cls)
    known = worker == "auto" or worker.startswith(("vllm.v1.", "agentcache."))
    return None if known else f"the worker is {worker}"


def connector(setup: Setup) -> str | None:
    given = setup.config.kv_transfer_config
    return f"KV connector {given.kv_connector} is on" if given else None


def foreign_connector(setup: Setup) -> str | None:
    """A connector of which we cannot know what it does with the pool, or that walks along vLLM's own free queue."""
    given = setup.config.kv_transfer_config
    if not given:
        return None
    if not own_connector(given):
        return f"KV connector {given.kv_connector} does not come with vLLM"
    return when("'lazy_offload': True" in str(given.kv_connector_extra_config), "lazy_offload is on")


def when(condition: bool, value: str) -> str | None:
    return value if condition else None


def runs_our_worker(config: Any) -> bool:
    """Whether `--worker-cls` names a worker of AgentCache."""
    return str(config.parallel_config.worker_cls).startswith("agentcache.")
