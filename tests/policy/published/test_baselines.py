"""The published baselines against their definitions, written plainly over all blocks."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.model import Block, Context, ContextChanged, Standing
from agentcache.policy import Policy, make_policy
from tests.policy.owners import owned

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-6), 16)

Releases = list[tuple[float, int, int]]
RELEASES = st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=6)


def fill(policy: Policy, releases: Releases) -> tuple[list[Block], float]:
    """Offer runs (seconds later, head, blocks), each as one release, tail first."""
    blocks: list[Block] = []
    now = 0.0
    for number, (later_s, head, count) in enumerate(releases, 1):
        now += later_s
        for index in reversed(range(head, head + count)):
            block = Block(len(blocks), (number, index), index, number, now, Standing.TOOL)
            blocks.append(block)
            policy.offer(block, now)
    return blocks, now + 1.0


def one_by_one(blocks: list[Block], need: int, score: Callable[[Block], tuple[float, ...]]) -> list[Block]:
    return sorted(blocks, key=score)[:need]


@given(RELEASES, st.integers(1, 8))
def test_pensieve_evicts_the_least_price_over_idle_time(releases: Releases, need: int) -> None:
    policy = make_policy("pensieve", COST, 64)
    blocks, now = fill(policy, releases)
    need = min(need, len(blocks))
    expected = one_by_one(blocks, need, lambda b: (COST.block_seconds(b.index) / (now - b.released_at), b.release))
    assert policy.victims(need, frozenset(), now) == expected


@given(RELEASES, st.integers(1, 8), st.integers(0, 80))
def test_t_lru_evicts_what_the_budget_can_recompute_first(releases: Releases, need: int, budget: int) -> None:
    policy = make_policy(f"t-lru:budget_tokens={budget},next_tokens=16", COST, 64)
    blocks, now = fill(policy, releases)
    ends = {b.release: 16 * (max(c.index for c in blocks if c.release == b.release) + 1) for b in blocks}

    def score(block: Block) -> tuple[float, ...]:
        safe = block.index * 16 >= max(ends[block.release] + 16 - budget, 0)
        return (not safe, block.release, -block.index)

    need = min(need, len(blocks))
    assert policy.victims(need, frozenset(), now) == one_by_one(blocks, need, score)


@given(RELEASES, st.integers(1, 8))
def test_max_score_with_one_recency_for_all_is_lru(releases: Releases, need: int) -> None:
    mine, lru = make_policy("max-score:eq9=1", COST, 64), make_policy("lru", COST, 64)
    blocks, now = fill(mine, releases)
    for block in blocks:
        lru.offer(block, block.released_at)
    need = min(need, len(blocks))
    assert mine.victims(need, frozenset(), now) == lru.victims(need, frozenset(), now)


def test_max_score_evicts_the_class_that_returns_later() -> None:
    policy = make_policy("max-score", COST, 64)
    for standing, gap_s in ((Standing.TOOL, 1.0), (Standing.END_TURN, 500.0)):
        for number in range(20):
            block = Block(1000 + number, number, 0, 100 + number, 0.0, standing)
            policy.offer(block, 0.0)
            policy.touch(block, gap_s)
    tool = Block(1, "tool", 0, 1, 600.0, Standing.TOOL)
    user = Block(2, "user", 0, 2, 590.0, Standing.END_TURN)
    policy.offer(user, 600.0)
    policy.offer(tool, 600.0)
    assert policy.victims(1, frozenset(), 610.0) == [tool], "its time has come and gone"


def test_rr_tail_takes_turns_and_remembers_whose_turn_it_is() -> None:
    policy = make_policy("rr-tail", COST, 64)
    _, now = fill(policy, [(1.0, 0, 3), (1.0, 0, 3), (1.0, 0, 3)])
    taken = [(b.release, b.index) for b in policy.victims(4, frozenset(), now) or []]
    taken += [(b.release, b.index) for b in policy.victims(2, frozenset(), now) or []]
    assert taken == [(1, 2), (2, 2), (3, 2), (1, 1), (2, 1), (3, 1)]


def test_partial_node_takes_the_head_of_the_cheapest_run() -> None:
    policy = make_policy("partial-node", COST, 256)
    fill(policy, [(1.0, 0, 6), (1.0, 200, 6)])
    taken = policy.victims(4, frozenset(), 3.0)
    assert taken and [(b.release, b.index) for b in taken] == [(1, 0), (1, 1), (1, 2), (1, 3)]


def paused(policy: Policy, name: str, blocks: int, now: float, tool: str = "bash") -> list[Block]:
    context = Context(name, name, standing=Standing.TOOL, tool=tool, depth=1)
    owners = owned(context)
    policy.observe(ContextChanged(context), now)
    made = [
        Block(0, (name, index), index, 1 + int(now), now, Standing.TOOL, owners) for index in reversed(range(blocks))
    ]
    for block in made:
        policy.offer(block, now)
    return made


def test_a_lease_keeps_a_context_until_it_ends() -> None:
    policy = make_policy("ttl:tau_s=10+lru", COST, 64)
    paused(policy, "old", 4, 0.0)
    unknown = Block(99, "x", 0, 5000, 5.0)
    policy.offer(unknown, 5.0)
    assert policy.victims(1, frozenset(), 6.0) == [unknown], "the only one without a lease"
    policy.offer(unknown, 9.0)
    policy.check()
    assert policy.victims(1, frozenset(), 11.0) != [unknown], "the lease is over, and the old context is older"


def test_leased_blocks_go_when_nothing_else_is_left() -> None:
    policy = make_policy("ttl:tau_s=1000+lru-holes", COST, 8)
    blocks = paused(policy, "a", 6, 0.0)
    assert set(policy.victims(6, frozenset(), 1.0) or ()) == set(blocks)
    policy.check()


def test_leases_hold_a_share_of_the_pool_and_the_last_comer_loses() -> None:
    policy = make_policy("ttl:tau_s=1000,share=0.5+lru", COST, 8)
    paused(policy, "first", 4, 0.0)
    late = paused(policy, "second", 4, 1.0)
    paused(policy, "third", 1, 2.0)
    policy.check()
    assert set(policy.victims(4, frozenset(), 3.0) or ()) == set(late)


@pytest.mark.parametrize("name", ["belady", "belady-compute"])
def test_an_oracle_without_the_future_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="not told the future"):
        make_policy(name, COST, 8).offer(Block(0, "k", 0), 0.0)
