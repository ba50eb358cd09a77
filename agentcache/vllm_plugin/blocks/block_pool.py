"""vLLM's block pool, telling the residency what is stored, used again and lost."""

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from agentcache.vllm_plugin.blocks.free_queue import ResidencyFreeQueue
from agentcache.vllm_plugin.blocks.reach import Reach
from agentcache.vllm_plugin.compat import BlockPool, KVCacheBlock, Request, get_block_hash
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.overrides import Joined, own, stand_in


class ResidencyBlockPool(BlockPool, Joined):
    """Adopted from a stock pool: the same blocks and hash map, another order of eviction, over all KV groups."""

    if TYPE_CHECKING:
        free_block_queue: ResidencyFreeQueue

    @own
    def attach(self, host: Host, reaches: Sequence[Reach] = (None,)) -> None:
        """Put the residency's queue in the place of the stock one."""
        self.agentcache = host
        # Only a connector that offloads lazily walks along the queue: with one the order stays vLLM's.
        stand_in(ResidencyFreeQueue, type(self.free_block_queue), unneeded=("iter_blocks_after",))
        stock = self.free_block_queue.get_all_free_blocks()
        self.free_block_queue = ResidencyFreeQueue(host, self.blocks, stock, self.hash_block_size, reaches)

    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        free = [block for block in blocks if block.ref_cnt == 0 and not block.is_null]
        self.free_block_queue.remove_n(free)
        for block in blocks:
            block.ref_cnt += 1
            if self.metrics_collector:
                self.metrics_collector.on_block_accessed(block)

    def cache_full_blocks(
        self,
        request: Request,
        blocks: list[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Register the blocks that have been computed. Some stay without a key: nobody will look them up."""
        super().cache_full_blocks(request, blocks, num_cached_blocks, num_full_blocks, *args, **kwargs)
        names = [block.block_hash for block in blocks[num_cached_blocks:num_full_blocks]]
        self.agentcache.stored([get_block_hash(name) for name in names if name is not None])

    def _remove_cached_block_hashes(self, block: KVCacheBlock) -> Any:
        keyed = block.block_hash is not None  # most blocks that are handed out are not
        removed = super()._remove_cached_block_hashes(block)
        if block.ref_cnt == 0:
            if keyed:
                self.free_block_queue.lost_key(block)
        elif removed:  # somebody still writes or reads it, under no key
            self.agentcache.withdrawn([get_block_hash(name) for name in removed])
        return removed

    def reset_prefix_cache(self) -> bool:
        done = super().reset_prefix_cache()
        if done:
            for block in self.blocks:
                self.free_block_queue.lost_key(block)
        return bool(done)


class HoleFillingBlockPool(ResidencyBlockPool):
    """A pool of one group, in whose block tables resident blocks may stand behind missing ones."""

    awaited: Set[Any] = frozenset()
    """Keys whose computation is to be noticed: another set stands here then."""

    def cache_full_blocks(
        self,
        request: Request,
        blocks: list[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Register the blocks that have been computed; those reused behind a hole have their key already.

        One stock call for each run of new blocks keeps vLLM's KV events true: each names its parent and its tokens.
        """
        start = num_cached_blocks
        while start < num_full_blocks:
            if blocks[start].block_hash is not None:
                start += 1
                continue
            end = start + 1
            while end < num_full_blocks and blocks[end].block_hash is None:
                end += 1
            BlockPool.cache_full_blocks(self, request, blocks, start, end, *args, **kwargs)
            keys = request.block_hashes[start:end]
            if not self.awaited.isdisjoint(keys):
                self.awaited = frozenset()
            self.agentcache.stored(keys)
            start = end
