"""Configurations in which reuse behind a hole would not be exact, or has not been shown to be: refused at start-up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentcache.errors import Unsupported
from agentcache.vllm_plugin.compat import AttentionBackendEnum, FullAttentionSpec, MLAAttentionSpec


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason to refuse: `applies(scheduler)` on vLLM's scheduler as built, and the sentence that says why."""

    name: str
    sentence: str
    applies: Callable[[Any], bool]


def _not_full_attention(scheduler: Any) -> bool:
    groups = scheduler.kv_cache_config.kv_cache_groups
    spec = groups[0].kv_cache_spec if groups else None
    return (
        len(groups) != 1
        or not isinstance(spec, FullAttentionSpec)
        or isinstance(spec, MLAAttentionSpec)
        or spec.sliding_window is not None
        or spec.attention_chunk_size is not None
    )


def runs_our_worker(config: Any) -> bool:
    """Whether `--worker-cls` names a worker of AgentCache."""
    return str(config.parallel_config.worker_cls).startswith("agentcache.")


def runs_fused_worker(config: Any) -> bool:
    """Whether its attention backend takes several segments of a request in one step."""
    on_cpu = str(config.parallel_config.worker_cls).startswith("agentcache.vllm_plugin.cpu_worker.")
    return on_cpu or (runs_our_worker(config) and config.attention_config.backend is AttentionBackendEnum.CUSTOM)


RULES = (
    Rule(
        "prefix caching off",
        "prefix caching is off, so no block outlives its request and there is nothing to keep",
        lambda s: not s.cache_config.enable_prefix_caching,
    ),
    Rule(
        "not one full-attention group",
        "the model does not have exactly one full-attention KV group (sliding-window, chunked, Mamba, hybrid and MLA "
        "layers keep state that a block behind a hole does not determine)",
        _not_full_attention,
    ),
    Rule(
        "speculative decoding",
        "speculative decoding writes look-ahead slots that may be rejected, which hole planning does not cover",
        lambda s: s.vllm_config.speculative_config is not None,
    ),
    Rule(
        "context parallelism",
        "context parallelism shards each block over ranks, and holes are planned on whole blocks",
        lambda s: s.dcp_world_size > 1 or s.pcp_world_size > 1,
    ),
    Rule(
        "KV connector",
        "a KV connector may load a missing block while it is being rebuilt",
        lambda s: s.connector is not None,
    ),
    Rule(
        "hash blocks differ from cache blocks",
        "hashes are computed on another block size than the cache's, so a hit may end inside a block",
        lambda s: s.hash_block_size != s.block_size,
    ),
    Rule(
        "pooling or encoder-decoder model",
        "pooling and encoder-decoder models need every position of the prompt computed",
        lambda s: s.is_encoder_decoder or s.vllm_config.model_config.runner_type == "pooling",
    ),
    Rule(
        "model runner V2 with a stock worker",
        "vLLM's V2 model runner counts computed tokens on the device and follows a jump over resident blocks only "
        "under AgentCache's worker class",
        lambda s: s.use_v2_model_runner and not runs_our_worker(s.vllm_config),
    ),
)


def refuse(scheduler: Any) -> None:
    """Raise `Unsupported` with the first rule that applies to this scheduler."""
    for rule in RULES:
        if rule.applies(scheduler):
            raise Unsupported(
                f"AgentCache cannot promise exact reuse here: {rule.sentence}",
                hint="change the engine's configuration, or set on_unsupported to 'stock' to run stock prefix caching",
            )
