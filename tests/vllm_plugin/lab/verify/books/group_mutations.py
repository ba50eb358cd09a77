"""Ways to be wrong with several KV groups, each of which the model check must find, and in which groups."""

from collections.abc import Callable
from typing import Any

import pytest
from vllm.v1.core.single_type_kv_cache_manager import (
    ChunkedLocalAttentionManager,
    MambaManager,
    SlidingWindowManager,
)

Patch = Callable[[pytest.MonkeyPatch], None]


def _state_of_a_block_before(patch: pytest.MonkeyPatch) -> None:
    found = MambaManager.find_longest_cache_hit.__func__  # type: ignore[attr-defined]

    def mutated(cls: Any, block_hashes: Any, max_length: int, **kwargs: Any) -> Any:
        hit, length = found(cls, block_hashes, max_length, **kwargs)
        size = kwargs["kv_cache_spec"].block_size
        before, _ = found(cls, block_hashes, max(length - size, 0), **kwargs)
        if before[0]:
            for blocks, others in zip(hit, before, strict=True):
                blocks[-1] = others[-1]
        return hit, length

    patch.setattr(MambaManager, "find_longest_cache_hit", classmethod(mutated))


def _state_freed_a_step_early(patch: pytest.MonkeyPatch) -> None:
    allocate = MambaManager.allocate_new_blocks

    def mutated(self: Any, request_id: str, *args: Any) -> Any:
        blocks = self.req_to_blocks[request_id]
        last = next((index for index in reversed(range(len(blocks))) if not blocks[index].is_null), None)
        before = len(blocks)
        if last is not None and last >= before - 1 and blocks[last].ref_cnt == 1:
            given, blocks[last] = blocks[last], self._null_block
            self.block_pool.free_blocks([given])
        added = allocate(self, request_id, *args)
        if last is not None and len(blocks) == before and last >= before - 1 and blocks[last].is_null:
            (blocks[last],) = self.block_pool.get_new_blocks(1)
        return added

    patch.setattr(MambaManager, "allocate_new_blocks", mutated)


def _sees_less(manager: type, tokens: int) -> Patch:
    skipped = manager.get_num_skipped_tokens  # type: ignore[attr-defined]

    def mutated(self: Any, computed: int) -> int:
        return min(int(skipped(self, computed)) + tokens, computed)

    return lambda patch: patch.setattr(manager, "get_num_skipped_tokens", mutated)


def _window_of_one_block(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlidingWindowManager, "_contiguous_blocks_for_hit", classmethod(lambda cls, *args, **kwargs: 1))


MUTATIONS: dict[str, tuple[tuple[str, ...], Patch]] = {
    "the state of a block before": (("state", "full"), _state_of_a_block_before),
    "a state freed before it is copied": (("state", "full"), _state_freed_a_step_early),
    "a block of the chunk freed": (("chunk 8", "full"), _sees_less(ChunkedLocalAttentionManager, 4)),
    "a block of the window freed": (("full", "window 9"), _sees_less(SlidingWindowManager, 4)),
    "a window taken for one block": (("full", "window 9"), _window_of_one_block),
}
