"""A look inside an engine that runs in this process, stock or ours: for replays, verification and tests."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from agentcache.errors import CheckFailed
from agentcache.vllm_plugin.host import Host, Listener
from agentcache.vllm_plugin.levels import Level


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


class LookInside:
    """Wraps an `LLMEngine` started with VLLM_ENABLE_V1_MULTIPROCESSING=0; reads attributes, changes nothing unasked."""

    def __init__(self, engine: Any) -> None:
        core = engine.engine_core.engine_core
        self.scheduler = core.scheduler
        self.worker = core.model_executor.driver_worker.worker
        self.runner = self.worker.model_runner
        self.pool = self.scheduler.kv_cache_manager.block_pool

    @property
    def host(self) -> Host | None:
        """Our host object; None in a stock engine."""
        return getattr(self.scheduler, "agentcache", None)

    @property
    def active(self) -> bool:
        return self.host is not None

    def classes(self) -> dict[str, str]:
        """Fully qualified names of the classes that run."""
        backend = self.runner.attn_groups[0][0].backend
        return {
            "scheduler": _name(self.scheduler),
            "manager": _name(self.scheduler.kv_cache_manager),
            "pool": _name(self.pool),
            "queue": _name(self.pool.free_block_queue),
            "worker": _name(self.worker),
            "runner": _name(self.runner),
            "backend": f"{backend.__module__}.{backend.__qualname__}",
        }

    def listen(self, callback: Listener) -> None:
        """Hear every event of the core; a stock engine has none."""
        if self.host:
            self.host.listeners.append(callback)

    # Blocks

    @property
    def usable_blocks(self) -> int:
        return int(self.pool.num_gpu_blocks) - 1  # one is vLLM's null block

    @property
    def free_blocks(self) -> int:
        return int(self.pool.get_num_free_blocks())

    def cached_block_ids(self) -> list[int]:
        """Blocks that hold reusable content and that nobody references."""
        return [block.block_id for block in self.pool.blocks if block.block_hash is not None and block.ref_cnt == 0]

    def evict(self, block_ids: Iterable[int]) -> None:
        self.pool.evict_blocks(set(block_ids))

    def poison(self, block_ids: Iterable[int], value: float = math.nan) -> None:
        """Overwrite the K/V of free blocks in every layer. Cache tensors have the block as their first dimension."""
        ids = list(block_ids)
        for cache in self.runner.kv_caches:
            cache[ids] = value

    def on_allocate(self, callback: Callable[[list[int]], None]) -> None:
        """Hear the ids of all blocks that are handed out from now on, before anything is written to them."""
        stock = self.pool.get_new_blocks

        def get_new_blocks(count: int) -> Any:
            blocks = stock(count)
            callback([block.block_id for block in blocks])
            return blocks

        self.pool.get_new_blocks = get_new_blocks

    def check(self) -> None:
        """All blocks are free, every book balances and nothing has failed; raise `CheckFailed` otherwise.

        For an idle engine.
        """
        if self.free_blocks != self.usable_blocks:
            raise CheckFailed(f"{self.free_blocks} blocks are free, {self.usable_blocks} exist, and nothing runs")
        if references := {block.block_id: block.ref_cnt for block in self.pool.blocks[1:] if block.ref_cnt}:
            raise CheckFailed(f"blocks are still referenced while nothing runs: {references}")
        if self.host:
            if self.host.level >= Level.ORDER:
                self.pool.free_block_queue.check()
            else:  # the pool is vLLM's own
                self.host.residency.check()
            if self.host.spare.faults:
                raise CheckFailed(f"parts of ours have failed: {self.host.spare.faults}")
