"""A KV connector in memory: full blocks are put on a shelf as they are computed, and come back at once, late, or not.

vLLM's two halves of it run in one process here, so that the shelf is a global of this module. Its content is keyed by
block hashes, which commit to everything before: what it gives back is what an engine would compute.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

LATE_STEPS = 3
FAILS_EVERY = 4

Named = tuple[int, bytes]
"""A physical block, and the key of what it holds or is to hold."""


class Shelf:
    """What all engines of this process have put down; while it is not `open` nothing comes or goes."""

    def __init__(self) -> None:
        self.open = False
        self.blocks: dict[bytes, list[torch.Tensor]] = {}
        self.met: Counter[str] = Counter()

    def begin(self) -> None:
        self.open = True
        self.blocks.clear()
        self.met.clear()


SHELF = Shelf()


def config(way: str) -> KVTransferConfig:
    """`way`: `sync`, `late` or `failing`, of which loads some fail and the engine computes instead."""
    return KVTransferConfig(
        kv_connector="ShelfConnector",
        kv_connector_module_path=__name__,
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
        kv_connector_extra_config={"way": way},
    )


@dataclass
class Orders(KVConnectorMetadata):
    """What the worker is to do in a step, by request."""

    loads: dict[str, list[Named]] = field(default_factory=dict)
    saves: dict[str, list[Named]] = field(default_factory=dict)


class ShelfConnector(KVConnectorBase_V1):
    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size = vllm_config.cache_config.block_size
        self._way = vllm_config.kv_transfer_config.get_from_extra_config("way", "sync")
        # The scheduler's half.
        self._manager: Any = None
        self._requests: dict[str, Any] = {}
        self._found: dict[str, tuple[int, int]] = {}
        self._orders = Orders()
        # The worker's.
        self._caches: list[torch.Tensor] = []
        self._blocks = kv_cache_config.num_blocks
        self._late: dict[str, tuple[int, list[Named]]] = {}
        self._failed: set[int] = set()
        self._spoilt: set[str] = set()

    # In the scheduler

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        self._manager = kv_cache_manager

    def on_new_request(self, request: Any) -> None:
        self._requests[request.request_id] = request

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        first, end = num_computed_tokens // self._block_size, (request.num_tokens - 1) // self._block_size
        found = 0
        while SHELF.open and first + found < end and request.block_hashes[first + found] in SHELF.blocks:
            found += 1
        self._found[request.request_id] = first, found
        return found * self._block_size, self._way == "late" and found > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens:
            first, found = self._found[request.request_id]
            self._orders.loads[request.request_id] = self._named(request, first, first + found)

    def build_connector_meta(self, scheduler_output: Any) -> Orders:
        orders, self._orders = self._orders, Orders()
        cached = scheduler_output.scheduled_cached_reqs
        starts = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for name, count in scheduler_output.num_scheduled_tokens.items():
            request = self._requests[name]
            full = min((starts[name] + count) // self._block_size, len(request.block_hashes))
            orders.saves[name] = self._named(request, 0, full)
        return orders

    def _named(self, request: Any, first: int, end: int) -> list[Named]:
        ids = self._manager.get_block_ids(request.request_id)[0]
        return list(zip(ids[first:end], request.block_hashes[first:end], strict=True))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        del self._requests[request.request_id]
        return False, None

    # In the worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._caches = [cache.movedim(cache.shape.index(self._blocks), 0) for cache in kv_caches.values()]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        orders = self._get_connector_metadata()
        assert isinstance(orders, Orders)
        for name, blocks in orders.loads.items():
            if self._way == "late":
                self._late[name] = LATE_STEPS, blocks
            else:
                self._load(name, blocks)

    def _load(self, name: str, blocks: list[Named]) -> None:
        SHELF.met["loads"] += 1
        fails = self._way == "failing" and SHELF.met["loads"] % FAILS_EVERY == 0
        whole = len(blocks) // 2 if fails else len(blocks)
        for block, key in blocks[:whole]:
            for cache, kept in zip(self._caches, SHELF.blocks[key], strict=True):
                cache[block] = kept
        if fails:
            SHELF.met["failed loads"] += 1
            self._failed |= {block for block, _ in blocks[whole:]}
            self._spoilt.add(name)
            for block in self._failed:
                for cache in self._caches:
                    cache[block] = 3.0

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        orders = self._get_connector_metadata()
        assert isinstance(orders, Orders)
        for name, blocks in orders.saves.items() if SHELF.open else ():
            if name not in self._spoilt:
                for block, key in blocks:
                    if key not in SHELF.blocks:
                        SHELF.blocks[key] = [cache[block].clone() for cache in self._caches]
        self._spoilt.clear()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[None, set[str] | None]:
        done = set()
        for name, (steps, blocks) in list(self._late.items()):
            self._late[name] = steps - 1, blocks
            if steps <= 1:
                del self._late[name]
                self._load(name, blocks)
                done.add(name)
        SHELF.met["late"] += len(done)
        return None, done or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._failed = self._failed, set()
        return failed
