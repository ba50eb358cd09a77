"""What contexts take of a pool of several KV groups: the footing against vLLM's own scheduler, block by block."""

from math import ceil, inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.kv_cache_interface import (
    CircularBufferSpec,
    CrossAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    UniformTypeKVCacheSpecs,
)

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Stop, TurnArrived, TurnFinished, TurnScheduled
from agentcache.policy import make_policy
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.residency import Residency
from agentcache.vllm_plugin.steps.footing import footing_of
from tests.vllm_plugin.pools import Pool, chunked, full, mla, sliding, states

GEMMA = [full(), *[sliding(128)] * 5]
GDN = [full(64), *[states()] * 3]

POOLS: dict[str, tuple[list[KVCacheSpec], int | None, int | None, Footing, tuple[int, int]]] = {
    # Groups, retention, tokens of a hash, the footing, and by how many blocks it may be short of, or beyond, the truth:
    # a turn's last block of each full group is not full; a first turn has left no place before, and counts as if; a
    # chunk may just have begun; a context may be shorter than what is constant of it.
    "full": ([full()], 0, None, ONE_GROUP, (1, 0)),
    "MLA": ([mla()], 0, None, ONE_GROUP, (1, 0)),
    "two sizes": ([full(16), full(32)], 0, None, Footing(1.5), (2, 1)),
    "Gemma": (GEMMA, 0, None, Footing(1, 45, 6, 24, 160), (10, 5 * 24 + 24)),
    "Gemma, dense": (GEMMA, None, None, Footing(1, 45, 5), (1, 5 * 9)),
    "Gemma, one in 256": (GEMMA, 256, None, Footing(1, 165, 2.5, inf, 80), (1, 5 * 32)),
    "gpt-oss": ([full(), sliding(128)], 0, None, Footing(1, 9, 2, 24, 32), (2, 24 + 24)),
    "gpt-oss, dense": ([full(), sliding(128)], None, None, Footing(1, 9, 1), (1, 9)),
    "Mistral": ([sliding(128)], 0, None, Footing(0, 9, 1, 24, 32), (2, 24)),
    "Llama 4": ([full(), chunked(256)], 0, None, Footing(1, 8, 1), (9, 8)),
    "GDN": (GDN, 0, None, Footing(1, 12), (6, 9)),
    "GDN, dense": (GDN, None, None, Footing(1, 9, 0.375), (6, 9)),
    "GDN, hits inside of blocks": (GDN, 0, 16, Footing(0.25, 15), (6, 9)),
    "GDN, two drafts": ([full(64), *[states(drafts=2)] * 3], 0, None, Footing(1, 18), (6, 9)),
}
TURNS = st.lists(st.tuples(st.integers(20, 500), st.sampled_from([8, 24, 24, 100])), min_size=2, max_size=6)


class Context:
    """One context that takes turns in a pool where nothing is ever overwritten."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.tokens: list[int] = []
        self._freed: set[int] = set()
        append = pool.manager.block_pool.free_block_queue.append_n

        def appended(blocks: list[Any]) -> None:
            self._freed |= {block.block_id for block in blocks}
            append(blocks)

        pool.manager.block_pool.free_block_queue.append_n = appended

    def turn(self, count: int, answer: int) -> tuple[int, int, int]:
        """Keys it has then, keys that the turn computed, and blocks: held, or found by a return, or left with a key."""
        prompt = [*self.tokens, *self.pool.tokens(count)]
        groups = self.pool.manager.coordinator.single_type_managers
        self._freed.clear()
        held: set[int] = set()

        def watch(request: Any) -> None:
            held.clear()
            tables = [group.req_to_blocks[request.request_id] for group in groups]
            held.update(block.block_id for table in tables for block in table if not block.is_null)

        request = self.pool.turn(prompt, answer, watch)
        self.tokens = list(request.all_token_ids)
        found, *_ = self.pool.manager.get_computed_blocks(self.pool.request([*self.tokens, *[1] * 70], 1))
        held |= {block.block_id for table in found.blocks for block in table if not block.is_null}
        keyed = {block.block_id for block in self.pool.manager.block_pool.blocks if block.block_hash is not None}
        size = self.pool.hash_block_size
        computed = ceil(len(prompt) // size * (len(prompt) - request.cached) / len(prompt))
        keys = len(request.block_hashes)
        return keys, computed + keys - len(prompt) // size, len(held | (self._freed & keyed))


@pytest.mark.parametrize("name", POOLS)
def test_a_context_takes_what_its_footing_says(name: str) -> None:
    groups, retention, hash_block_size, footing, (short, beyond) = POOLS[name]

    @given(turns=TURNS)
    @settings(max_examples=4, deadline=None)
    def holds(turns: list[tuple[int, int]]) -> None:
        pool = Pool(groups, 5000, retention, hash_block_size=hash_block_size)
        assert footing_of(pool.config, pool.hash_block_size, pool.step_tokens) == footing
        context = Context(pool)
        for count, answer in turns:
            keys, computed, blocks = context.turn(count, answer)
            said = footing.blocks(keys, 1, int(min(computed, footing.left_keys)))
            assert blocks - short <= said <= blocks + beyond, f"{blocks} blocks: {keys} keys, {computed} computed"

    holds()


def test_an_order_that_takes_the_dead_first_has_nothing_left_of_them() -> None:
    def of(groups: list[KVCacheSpec], retention: int | None = 0) -> Footing:
        config = Pool(groups, 5000, retention).config
        return footing_of(config, groups[0].block_size, 512, dead_first=True)

    assert of(GEMMA) == Footing(1, 5 * (9 + 8), step_blocks=160)
    assert of(GEMMA, None) == Footing(1, 45, step_blocks=160)
    assert of([full(), chunked(256)]) == Footing(1, 8, step_blocks=32)
    assert of(GDN) == of(GDN, None) == Footing(1, 12), "states are too few and too near to be told dead"


def config(*groups: KVCacheSpec, blocks: int = 10_000, **more: Any) -> KVCacheConfig:
    return KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], group, **more) for group in groups])


def test_what_makes_blocks_longer_and_hits_shorter() -> None:
    assert footing_of(config(full(16)), 32, 512, dcp=2) == ONE_GROUP
    assert footing_of(config(full(16), states(64)), 32, 512, dcp=2).key_blocks == 1, "states are not sharded"
    dense = footing_of(config(full(), sliding(128)), 16, 512, eagle=True)
    assert dense == Footing(1, 9, 1), "a window that begins inside of a block has the one more already"
    sparse = config(full(), sliding(128))
    sparse.prefix_cache_retention_interval = 0
    assert footing_of(sparse, 16, 512, eagle=True).left_keys == 3 * 9
    sparse.kv_cache_groups[0].is_eagle_group = True
    assert footing_of(sparse, 16, 512, eagle=True).left_keys == 3 * 8, "only those that say so"


def test_kinds_beside_these() -> None:
    shape = {"block_size": 16, "num_kv_heads": 1, "head_size": 8, "dtype": full().dtype}
    assert footing_of(config(full(), CircularBufferSpec(**shape)), 16, 512) == Footing(1, 1)
    assert footing_of(config(CrossAttentionSpec(**shape)), 16, 512) == ONE_GROUP, "unknown: as full attention"
    assert footing_of(config(UniformTypeKVCacheSpecs(16, {"a": full(), "b": full()})), 16, 512) == ONE_GROUP
    assert footing_of(config(full(), host_resident=True), 16, 512) == ONE_GROUP, "nothing of this pool"
    two = footing_of(config(full(), sliding(128), chunked(256)), 16, 512)
    assert two == Footing(1, 9 + 8, 2)
    assert footing_of(config(*GEMMA, blocks=400), 16, 512).step_blocks == 0, "dense: a step leaves what it computes"


def test_a_pool_that_a_step_would_fill_keeps_some_for_contexts() -> None:
    assert footing_of(Pool(GEMMA, 399).config, 16, 512).step_blocks == 100


COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)
JOBS, TURNS_EACH = 14, 6


def cached_of_returns(groups: list[KVCacheSpec], blocks: int, retention: int | None, footing: Footing | None) -> float:
    """The share of returning prompts that is cached, of jobs whose members take one turn each round.

    Without a footing, by the pool's own.
    """
    pool = Pool(groups, blocks, retention)
    footing = footing or footing_of(pool.config, pool.hash_block_size, pool.step_tokens)
    rule = WorkingSetConfig(release_s=1e9, max_hold_s=1e9)
    core = Residency(make_policy("lru", COST, blocks), blocks, admission=rule, footing=footing)
    texts = {f"job {number}": pool.tokens(400 + 40 * number) for number in range(JOBS)}
    left = dict.fromkeys(texts, TURNS_EACH)
    waiting: dict[str, Any] = {}
    cached = asked = 0
    for now in range(JOBS * TURNS_EACH):
        for job in sorted(texts.keys() - waiting.keys()):
            request = waiting[job] = pool.request(texts[job], 16)
            core.observe(TurnArrived(request.request_id, tuple(request.block_hashes), job), float(now))
        core.admit(float(now))
        ours = {request.request_id: job for job, request in waiting.items() if core.may_run(request.request_id)}
        running = sorted(((waiting.pop(job), job) for job in ours.values()), key=lambda each: each[1])
        for request, _ in running:
            pool.scheduler.add_request(request)
        while pool.scheduler.requests:
            for new in pool.step().scheduled_new_reqs:
                request = pool.scheduler.requests.get(new.req_id)
                found = new.num_computed_tokens
                tokens = len(texts[ours[new.req_id]])
                core.observe(TurnScheduled(new.req_id, tokens, found, 0, 0), float(now))
                if left[ours[new.req_id]] < TURNS_EACH:
                    cached, asked = cached + found, asked + tokens
        for request, job in running:
            left[job] -= 1
            keys = tuple(request.block_hashes)
            core.observe(TurnFinished(request.request_id, keys, Stop.TOOL_USE, last=not left[job]), float(now))
            texts[job] = [*request.all_token_ids, *pool.tokens(60)]
            if not left[job]:
                del texts[job]
        core.check()
        if not texts:
            break
    assert not texts, "all have had their turns"
    return cached / asked


TIGHT: dict[str, tuple[list[KVCacheSpec], int, int | None]] = {
    "Gemma": (GEMMA, 900, 0),
    "Gemma, dense": (GEMMA, 900, None),
    "gpt-oss": ([full(), sliding(128)], 420, 0),
    "gpt-oss, dense": ([full(), sliding(128)], 360, None),
    "Llama 4": ([full(), *[chunked(256)] * 3], 700, 0),
    "GDN": (GDN, 140, 0),
    "GDN, dense": (GDN, 140, None),
    "two sizes": ([full(16), full(32)], 360, 0),
}


@pytest.mark.parametrize(("groups", "blocks", "retention"), TIGHT.values(), ids=list(TIGHT))
def test_members_stay_resident_under_vllms_own_order(
    groups: list[KVCacheSpec], blocks: int, retention: int | None
) -> None:
    by_keys_alone = cached_of_returns(groups, blocks, retention, ONE_GROUP)
    by_footing = cached_of_returns(groups, blocks, retention, None)
    assert by_footing > 0.75 and by_keys_alone < by_footing / 2


@pytest.mark.parametrize("level", ["admit", "order"])
@pytest.mark.parametrize("name", ["Gemma", "Gemma, dense", "Llama 4", "GDN", "GDN, dense"])
def test_members_stay_resident_below_holes(name: str, level: str) -> None:
    groups, blocks, retention = TIGHT[name]
    pool = Pool(groups, blocks, retention, level=level)
    texts = {f"job {number}": pool.tokens(400 + 40 * number) for number in range(JOBS)}
    left = dict.fromkeys(texts, TURNS_EACH)
    asked: dict[str, Any] = {}
    found = tokens = 0
    while texts:
        for job in sorted(texts.keys() - asked.keys()):
            asked[job] = pool.request(texts[job], 16, job_id=job, is_last_step=left[job] == 1)
            pool.scheduler.add_request(asked[job])
        jobs = {request.request_id: job for job, request in asked.items()}
        for new in pool.step().scheduled_new_reqs:
            if left[job := jobs[new.req_id]] < TURNS_EACH:
                found, tokens = found + new.num_computed_tokens, tokens + len(texts[job])
        for job in [job for job, request in asked.items() if request.is_finished()]:
            texts[job] = [*asked.pop(job).all_token_ids, *pool.tokens(60)]
            left[job] -= 1
            if not left[job]:
                del texts[job]
    pool.scheduler.agentcache.residency.check()
    assert found / tokens > 0.75
