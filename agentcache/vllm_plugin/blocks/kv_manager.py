"""Look-up and allocation with holes: resident blocks of a prompt are reused, only the missing ones are allocated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

from agentcache.cost.model import CostModel
from agentcache.model import TurnScheduled
from agentcache.vllm_plugin.blocks.holes import Run, islands, plan, runs_of
from agentcache.vllm_plugin.blocks.withdrawn import withdraw
from agentcache.vllm_plugin.compat import (
    FullAttentionManager,
    KVCacheBlock,
    KVCacheBlocks,
    KVCacheManager,
    Request,
    make_block_hash_with_group_id,
)
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.levels import stock_only
from agentcache.vllm_plugin.overrides import Joined, own


def shortcut(instance: Any, stock: type, *names: str) -> None:
    """From now on, calls of these methods of an adopted object go straight to the stock class.

    They are called for every running request in every step, and a detour through Python is a tenth of their time.
    """
    if not instance.shortcuts:
        instance.shortcuts = names
        for name in names:
            setattr(instance, name, MethodType(getattr(stock, name), instance))


def no_shortcut(instance: Any) -> None:
    """Calls go to our class again."""
    for name in instance.shortcuts:
        delattr(instance, name)
    instance.shortcuts = ()


class HoleFillingManager(FullAttentionManager, Joined):
    """The block tables of one full-attention group, in which resident blocks may stand behind missing ones.

    `found` holds what a look-up saw, not yet referenced: it is looked up again before each attempt to allocate.
    `held` holds what is referenced for a request but not yet in its block table, by block index.
    """

    found: dict[str, dict[int, KVCacheBlock]]
    held: dict[str, dict[int, KVCacheBlock]]

    @own
    def attach(self) -> None:
        self.found, self.held = {}, {}
        self.shortcuts: tuple[str, ...] = ()

    @own
    def settle(self) -> None:
        """While no request has holes, allocation is vLLM's own, called without a detour."""
        if not self.found and not self.held:
            shortcut(self, FullAttentionManager, "get_num_blocks_to_allocate", "allocate_new_blocks")

    @own
    def look_up(self, request: Request, first: int) -> list[int]:
        """Find the resident blocks of a prompt from index `first` on; returns their indices.

        The block of the last token is never taken: that token must be computed to give logits.
        """
        last = (request.num_tokens - 1) // self.block_size
        get = self.block_pool.cached_block_hash_to_block.get_one_block
        found = {}
        for index in range(first, last):
            block = get(make_block_hash_with_group_id(request.block_hashes[index], self.kv_cache_group_id))
            if block is not None:
                found[index] = block
        if found:
            self.found[request.request_id] = found
            no_shortcut(self)
        else:
            self.found.pop(request.request_id, None)
        return list(found)

    @own
    def keep(self, request_id: str, runs: Sequence[Run]) -> None:
        """Of what was found, only these runs of tokens will be reused."""
        found, size = self.found.pop(request_id), self.block_size
        if runs:
            indices = (index for start, end in runs for index in range(start // size, end // size))
            self.found[request_id] = {index: found[index] for index in indices}

    def get_num_blocks_to_allocate(
        self, request_id: str, num_tokens: int, new_computed_blocks: Any, *args: Any, **kwargs: Any
    ) -> int:
        count: int = super().get_num_blocks_to_allocate(request_id, num_tokens, new_computed_blocks, *args, **kwargs)
        need = -(-num_tokens // self.block_size)
        if found := self.found.get(request_id):
            # All of them will be referenced at once, so those that are evictable now leave the free blocks.
            placed = sum(index < need for index in found)
            count += self._get_num_evictable_blocks(list(found.values())) - placed
        elif held := self.held.get(request_id):
            have = len(self.req_to_blocks[request_id])
            count -= sum(index in held for index in range(have, need))
        return count

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> list[KVCacheBlock]:
        if found := self.found.pop(request_id, None):
            # Referenced before anything is allocated: else a hole could be filled with one of them.
            self.block_pool.touch(list(found.values()))
            self.held[request_id] = found
        held = self.held.get(request_id)
        if not held:
            stock: list[KVCacheBlock] = super().allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)
            return stock
        table = self.req_to_blocks[request_id]
        indices = range(len(table), -(-num_tokens // self.block_size))
        fresh = self.block_pool.get_new_blocks(sum(index not in held for index in indices))
        if self.records_new_block_ids:
            self.new_block_ids.extend(block.block_id for block in fresh)
        filling = iter(fresh)
        added = [held.pop(index) if index in held else next(filling) for index in indices]
        table.extend(added)
        return added

    @own
    def references(self) -> Iterator[tuple[str, KVCacheBlock]]:
        """Every reference to a block that a request holds: in its block table, or behind its holes."""
        for name, table in self.req_to_blocks.items():
            yield from ((name, block) for block in table if not block.is_null)
        for name, behind in self.held.items():
            yield from ((name, block) for block in behind.values())

    def pop_blocks_for_free(self, request_id: str) -> list[KVCacheBlock]:
        self.found.pop(request_id, None)
        behind = self.held.pop(request_id, {})
        return [*super().pop_blocks_for_free(request_id), *behind.values()]


@dataclass(slots=True)
class Blocked:
    """A request at the head of the queue that did not fit: what was looked up for it, and when it may fit.

    It needs more than is free until blocks come back or somebody computes one of its own: blocks that are overwritten
    or used meanwhile change its need and what is free by the same number.
    """

    request: Request
    found: Any  # the answer of `get_computed_blocks`
    returns: int  # of blocks to the pool, so far
    keys: frozenset[Any]
    tokens: int = 0  # that it asked for and did not get
    alone: bool = False  # whether nothing ran then: vLLM keeps a reserve beside what runs


class ResidencyKVCacheManager(KVCacheManager, Joined):
    """Adopted from a stock manager: the scheduler's view of `HoleFillingManager`.

    `runs` holds, for each request that still has holes, what is resident behind its first missing block. `plans` are
    those of this step, by request: from where, for how many tokens (offered, and so computed), and the plan. `blocked`
    is the request that did not fit last.
    """

    @own
    def attach(
        self, host: Host, reuse_after_holes: bool, max_segments: int, step_segments: int, cost: CostModel
    ) -> None:
        """`max_segments`: of a request, `step_segments` in one step; `cost` says which runs are worth a segment."""
        self.agentcache = host
        self.reuse_after_holes = reuse_after_holes
        self.max_segments, self.step_segments = max_segments, step_segments
        self.cost = cost
        self.segment_s = cost.profile.c_seg
        self.runs: dict[str, list[Run]] = {}
        self.plans: dict[str, tuple[int, tuple[int, int], tuple[list[Run], int]]] = {}
        self.blocked: Blocked | None = None
        self._looked_up: tuple[Request, Any] | None = None
        self.shortcuts: tuple[str, ...] = ()

    @own
    def seconds(self, start: int, end: int) -> float:
        """What it takes to compute these tokens of a prompt, which are whole blocks."""
        size = self.cost.block_size
        return self.cost.run_seconds(start // size, (end - start) // size)

    @own
    def settle(self) -> None:
        """A step begins: go without detours if no request has holes, and none is known not to fit."""
        self.plans.clear()
        self._looked_up = None
        if self.blocked and self.blocked.request.is_finished():
            self.blocked = None
        if not self.runs and not self.blocked:
            shortcut(self, KVCacheManager, "allocate_slots")
        self.group.settle()

    @property
    @own
    def group(self) -> HoleFillingManager:
        manager: HoleFillingManager = self.coordinator.single_type_managers[0]
        return manager

    def get_computed_blocks(self, request: Request, max_cache_hit_length: int | None = None) -> Any:
        if max_cache_hit_length is not None:  # of a vLLM after 0.32, which asks so where only a prefix will do
            self.runs.pop(request.request_id, None)
            self.group.found.pop(request.request_id, None)
            return super().get_computed_blocks(request, max_cache_hit_length)
        if self.blocked and self.still_blocked(request):
            return self.blocked.found
        no_shortcut(self)  # it is about to be allocated for, and may not fit
        result = super().get_computed_blocks(request)
        self._looked_up = request, result
        prefix_tokens = result[1]
        self.runs.pop(request.request_id, None)
        if self.reuse_after_holes and not stock_only(request):
            size = self.group.block_size
            seen = runs_of(self.group.look_up(request, prefix_tokens // size), size)
            if runs := islands(seen, self.seconds, self.segment_s, self.max_segments):
                if len(runs) < len(seen):
                    self.group.keep(request.request_id, runs)
                self.runs[request.request_id] = runs
            elif seen:
                self.group.keep(request.request_id, [])
        return result

    @own
    def plan(self, request: Request, start: int, tokens: int) -> tuple[list[Run], int]:
        """The segments that a step computes for `tokens` tokens of a request from `start` on, and its frontier."""
        runs = self.runs.get(request.request_id)
        if not runs:
            return [(start, start + tokens)], start + tokens
        known = self.plans.get(request.request_id)
        if known and known[0] == start and tokens in known[1]:
            return known[2]
        end = max(request.num_tokens, start + tokens)
        made = plan(runs, start, end, tokens, self.step_segments)
        # Asked for when the chunk is sized; then, for what it computes, when it is allocated for and scheduled.
        self.plans[request.request_id] = start, (tokens, sum(end - start for start, end in made[0])), made
        return made

    @own
    def still_blocked(self, request: Request) -> bool:
        """Whether the request is known not to fit, whatever else has happened since it did not."""
        blocked, pool = self.blocked, self.block_pool
        return bool(
            blocked
            and blocked.request is request
            and blocked.returns == pool.free_block_queue.returns
            and blocked.keys is pool.awaited
        )

    def allocate_slots(
        self, request: Request, num_new_tokens: int, num_new_computed_tokens: int = 0, *args: Any, **kwargs: Any
    ) -> KVCacheBlocks | None:
        """Give the request slots up to its frontier: the tokens to compute and the resident ones among them."""
        wanted, alone = num_new_tokens, not kwargs.get("has_scheduled_reqs", True)
        if self.blocked and self.still_blocked(request):  # so that what was looked up is old
            if num_new_tokens < self.blocked.tokens or alone != self.blocked.alone:
                self.blocked = None  # it may fit like this: the next step looks it up
            return None
        if request.request_id in self.runs:
            start = request.num_computed_tokens + num_new_computed_tokens
            num_new_tokens = self.plan(request, start, num_new_tokens)[1] - start
        slots = super().allocate_slots(request, num_new_tokens, num_new_computed_tokens, *args, **kwargs)
        if self._looked_up and self._looked_up[0] is request:
            self.blocked = None if slots else self._not_fitting(request, self._looked_up[1], wanted, alone)
        return slots

    @own
    def _not_fitting(self, request: Request, found: Any, tokens: int, alone: bool) -> Blocked:
        before, pool = self.blocked, self.block_pool
        pool.awaited = before.keys if before and before.request is request else frozenset(request.block_hashes)
        return Blocked(request, found, pool.free_block_queue.returns, pool.awaited, tokens, alone)

    @own
    def advance(self, request: Request, tokens: int) -> tuple[list[Run], int]:
        """The step is scheduled: returns its segments, and how many resident tokens the request jumps over."""
        start = request.num_computed_tokens
        segments, frontier = self.plan(request, start, tokens)
        runs = self.runs.get(request.request_id)
        if runs and frontier >= runs[-1][1]:
            del self.runs[request.request_id]
        return segments, frontier - start - tokens

    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        """Count blocks behind holes as cached, in vLLM's metrics and in the request's own statistics."""
        runs = self.runs.get(request.request_id, [])
        after_hole = sum(end - start for start, end in runs)
        super().record_prefix_cache_stats(request, num_hits + after_hole)
        if request.prefill_stats and request.num_preemptions <= 0:
            request.prefill_stats.set(request.num_prompt_tokens, num_hits + after_hole, 0)
        edges = [num_hits, *(edge for run in runs for edge in run), request.num_tokens]
        gaps = tuple(zip(edges[::2], edges[1::2], strict=True))
        cached = num_hits + after_hole
        loaded = min(self.agentcache.loaded.pop(request.request_id, 0), cached)
        self.agentcache.observe(
            TurnScheduled(request.request_id, request.num_tokens, cached, after_hole, len(runs), gaps, loaded)
        )

    # The only two ways on which a request gives its blocks back.

    def free(self, request: Request) -> None:
        withdraw(self, request, self.runs.pop(request.request_id, ()))
        super().free(request)

    def pop_blocks_for_free(self, request: Request) -> list[KVCacheBlock]:
        withdraw(self, request, self.runs.pop(request.request_id, ()))
        blocks: list[KVCacheBlock] = super().pop_blocks_for_free(request)
        return blocks
