"""Ten ways to be wrong, each of which the model check must find: ours as they could have been written."""

from collections.abc import Callable
from typing import Any

import pytest

from agentcache.vllm_plugin.blocks import holes, kv_manager
from agentcache.vllm_plugin.blocks.kv_manager import HoleFillingManager, ResidencyKVCacheManager
from agentcache.vllm_plugin.compat import AsyncScheduler, make_block_hash_with_group_id
from agentcache.vllm_plugin.scheduler import ResidencyScheduling

Patch = Callable[[pytest.MonkeyPatch], None]


def _hole_ends(shift: int) -> Patch:
    def plan(runs: Any, *args: Any) -> Any:
        return holes.plan([(start + shift, end) for start, end in runs], *args)

    return lambda patch: patch.setattr(kv_manager, "plan", plan)


def _another_chain(patch: pytest.MonkeyPatch) -> None:
    look_up = HoleFillingManager.look_up

    def mutated(self: Any, request: Any, first: int) -> list[int]:
        indices = look_up(self, request, first)
        others = [block for block in self.block_pool.blocks if block.block_hash is not None]
        if indices:
            found = self.found[request.request_id]
            found[indices[-1]] = next(block for block in (*others, found[indices[-1]]) if block not in found.values())
        return indices

    patch.setattr(HoleFillingManager, "look_up", mutated)


def _touched_late(patch: pytest.MonkeyPatch) -> None:
    allocate = HoleFillingManager.allocate_new_blocks

    def mutated(self: Any, request_id: str, num_tokens: int, *args: Any) -> Any:
        if found := self.found.pop(request_id, None):
            missing = -(-num_tokens // self.block_size) - len(self.req_to_blocks[request_id]) - len(found)
            fresh = self.block_pool.get_new_blocks(max(missing, 0))
            self.block_pool.touch(list(found.values()))
            self.held[request_id] = found
            self.block_pool.free_blocks(fresh)
        return allocate(self, request_id, num_tokens, *args)

    patch.setattr(HoleFillingManager, "allocate_new_blocks", mutated)


def _kept_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kv_manager, "withdraw", lambda *args: None)


def _last_block_reused(patch: pytest.MonkeyPatch) -> None:
    look_up = HoleFillingManager.look_up

    def mutated(self: Any, request: Any, first: int) -> list[int]:
        indices = look_up(self, request, first)
        last = (request.num_tokens - 1) // self.block_size
        if last < len(request.block_hashes):  # a prompt of whole blocks
            name = make_block_hash_with_group_id(request.block_hashes[last], self.kv_cache_group_id)
            block = self.block_pool.cached_block_hash_to_block.get_one_block(name)
            if block is not None and last >= first:
                kv_manager.no_shortcut(self)
                self.found.setdefault(request.request_id, {})[last] = block
                indices.append(last)
        return indices

    patch.setattr(HoleFillingManager, "look_up", mutated)


def _no_placeholders(patch: pytest.MonkeyPatch) -> None:
    update = AsyncScheduler._update_request_with_output

    def mutated(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(self, request, *args, **kwargs)
        if request in self.running:
            self.kv_cache_manager.cache_blocks(request, request.num_computed_tokens)
        return result

    patch.setattr(AsyncScheduler, "_update_request_with_output", mutated)


def _runs_kept(patch: pytest.MonkeyPatch) -> None:
    free = ResidencyKVCacheManager.free

    def mutated(self: Any, request: Any) -> None:
        runs = self.runs.get(request.request_id)
        free(self, request)
        if runs:
            self.runs[request.request_id] = runs

    patch.setattr(ResidencyKVCacheManager, "free", mutated)


def _dropped_islands(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HoleFillingManager, "keep", lambda self, request_id, runs: None)


def _freed_in_flight(patch: pytest.MonkeyPatch) -> None:
    update = ResidencyScheduling._update_after_schedule

    def mutated(self: Any, output: Any) -> None:
        update(self, output)
        for name in output.num_scheduled_tokens:
            table = self.kv_cache_manager.group.req_to_blocks[name]
            if len(table) > 3:
                self.kv_cache_manager.block_pool.free_blocks([table.pop()])

    patch.setattr(ResidencyScheduling, "_update_after_schedule", mutated)


MUTATIONS: dict[str, Patch] = {
    "a hole's end off by one": _hole_ends(+1),
    "a hole one token short": _hole_ends(-1),
    "a block of another chain reused": _another_chain,
    "a resident block touched only after the hole is allocated": _touched_late,
    "keys of a withdrawn step kept": _kept_keys,
    "the last token's block reused": _last_block_reused,
    "placeholders of steps ahead ignored": _no_placeholders,
    "runs kept when a request is freed": _runs_kept,
    "dropped islands written over": _dropped_islands,
    "a block freed while a step in flight writes it": _freed_in_flight,
}
