"""Prices of blocks and seconds of steps: hand-computed cases and the identities between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile

H20 = CostModel(CostProfile(c_lin=1.09e-4, c_att=3.1e-9), 64)  # Llama-3.1-8B, as fitted to published times
FULL = CostProfile(c_lin=2e-4, c_att=3e-9, c0=0.01, c_seg=0.002, c_load=1e-5, c_dec=1e-3, c_kv=4e-8)


def test_price_by_hand() -> None:
    assert H20.a == pytest.approx(1.09e-4 * 64 + 3.1e-9 * 64**2)  # 6.9887 ms
    assert H20.b == pytest.approx(2 * 3.1e-9 * 64**2)  # 25.4 microseconds a position
    assert H20.block_seconds(0) == pytest.approx(6.988698e-3, rel=1e-6)
    # A price doubles at c_lin / (2 c_att) tokens, 17.6K here.
    assert H20.block_seconds(17_581 // 64) == pytest.approx(2 * H20.block_seconds(0), rel=0.01)


def test_whole_prompt_by_hand() -> None:
    # 10,000 tokens in one piece: 1.09 s linear and 0.31 s attention.
    assert H20.segments_seconds([(0, 10_000)]) == pytest.approx(1.4)


def test_step_by_hand() -> None:
    cost = CostModel(FULL, 16)
    seconds = cost.step_seconds([(0, 100), (200, 300)], decodes=4, context_tokens=5000, resident_tokens=100)
    parts = [0.01, 0.002, 200 * 2e-4, 100 * 1e-5, (100**2 + 300**2 - 200**2) * 3e-9, 4e-3, 5000 * 4e-8]
    assert seconds == pytest.approx(sum(parts))
    assert cost.step_seconds([], decodes=1) == pytest.approx(0.011)


def test_a_price_stays_positive_where_touching_measured_dearer_than_computing() -> None:
    cost = CostModel(CostProfile(c_lin=1e-5, c_att=0.0, c_load=2e-5), 16)
    assert cost.block_seconds(0) > 0


@given(st.integers(0, 3000), st.integers(0, 50))
def test_a_run_costs_what_its_blocks_cost(head: int, count: int) -> None:
    blocks = sum(H20.block_seconds(index) for index in range(head, head + count))
    assert H20.run_seconds(head, count) == pytest.approx(blocks)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 500))
def test_a_block_costs_the_same_whatever_is_resident(cached: int, gap: int, kept: int) -> None:
    """Eq. (7): T with the first block behind a gap evicted, less T, is a + b (cached + gap)."""
    cost, size = CostModel(FULL, 16), 16
    start, end, last = cached * size, (cached + gap) * size, (cached + gap + kept) * size
    tail = (last, last + 40)
    resident = (cached + kept) * size
    before = [(start, end)] * (gap > 0) + [tail]
    after = [(start, end + size), tail] if kept > 1 else [(start, tail[1])]
    difference = cost.segments_seconds(after, resident - size) - cost.segments_seconds(before, resident)
    new_holes = len(after) - len(before)
    assert difference - FULL.c_seg * new_holes == pytest.approx(cost.block_seconds(cached + gap), rel=1e-6)


@given(st.integers(0, 4000), st.integers(1, 2000), st.integers(1, 2000))
def test_adjacent_gaps_add_up(start: int, first: int, second: int) -> None:
    cost = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)
    middle, end = start + first, start + first + second
    parts = cost.segments_seconds([(start, middle)]) + cost.segments_seconds([(middle, end)])
    assert parts == pytest.approx(cost.segments_seconds([(start, end)]))
