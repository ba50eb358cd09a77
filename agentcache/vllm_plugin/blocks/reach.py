"""How far ahead a block is of use: windows and states serve a hit that ends a little behind them, and no other.

A prefix hit is the least of all KV groups. A full-attention block serves every hit beyond it. One of a sliding window
serves those that end within the window, a state of Mamba the one that ends with it. A later turn's hit can only end
where chains part or end now; a block that reaches no such place is dead, though vLLM keeps it under its key.
"""

from collections.abc import Sequence
from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.compat import KVCacheSpecKind, get_kv_cache_spec_kind

Reach = int | None
"""In keys, from the end of a block; None: as far as chains go."""


def reaches_of(groups: Sequence[Any], hash_block_size: int, alignment: int, eagle: bool) -> tuple[Reach, ...]:
    """The reach of each KV group's blocks. Sizes are tokens: of a key, and of what the ends of hits are multiples of.

    Hits end up to one alignment before chains part, and with EAGLE a block earlier: reaches are the longer for it.
    """
    return tuple(_reach(group.kv_cache_spec, hash_block_size, alignment, eagle) for group in groups)


def _reach(spec: Any, key: int, alignment: int, eagle: bool) -> Reach:
    kind = get_kv_cache_spec_kind(spec)
    spec = next(iter(compat.iter_layer_specs(spec)))  # all layers of a group are of one kind
    slack: int = max(alignment, spec.block_size) + (spec.block_size if eagle else 0)
    if kind in (KVCacheSpecKind.SLIDING_WINDOW, KVCacheSpecKind.SLIDING_WINDOW_MLA):
        return cdiv(spec.sliding_window - 1 + slack, key)
    if kind is KVCacheSpecKind.CHUNKED_LOCAL_ATTENTION:
        return cdiv(spec.attention_chunk_size + slack, key)
    # States are kept where chunks end, so that the last one may be a block before where it could be.
    return cdiv(slack + alignment, key) if kind is KVCacheSpecKind.MAMBA else None


def cdiv(tokens: int, size: int) -> int:
    """Whole pieces of a size that hold so many tokens."""
    return -(-tokens // size)


def kinds(groups: Sequence[Any]) -> list[str]:
    """What the KV groups are, in vLLM's words, a word each."""
    return [get_kv_cache_spec_kind(group.kv_cache_spec).value for group in groups]
