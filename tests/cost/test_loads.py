"""Loaded or computed: against every way to divide a few blocks, and cases by hand."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import (
    LoadPrice,
    Run,
    Split,
    TieredCost,
    missing_runs,
    spared_share,
    split_prefix,
    split_runs,
)
from agentcache.errors import ConfigError

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-5), 1)  # a block of one token at index i costs 1.1e-4 + 2e-5 i
MISSING = st.lists(st.sampled_from(["found", "below", "gone"]), max_size=9)
PRICES = st.builds(LoadPrice, st.sampled_from([0.0, 1e-5, 1.2e-4, 2e-4, 1e-2]), st.sampled_from([0.0, 3e-4]))
WAITS = st.sampled_from([0.0, 1e-4, 1e-3])
OTHERS = st.sampled_from([0, 1, 7])


def runs_of(kinds: list[str]) -> list[Run]:
    return list(missing_runs((index, kind == "below") for index, kind in enumerate(kinds) if kind != "found"))


def seconds(kinds: list[str], loaded: set[int], price: LoadPrice, wait_s: float) -> float:
    """As `split_runs` says it, block by block."""
    computed = {index for index, kind in enumerate(kinds) if kind != "found"} - loaded
    if not loaded:
        return sum(map(COST.block_seconds, computed))
    before = sum(COST.block_seconds(index) for index in computed if index < min(loaded))
    behind = sum(COST.block_seconds(index) for index in computed if index > min(loaded))
    return max(wait_s + price.seconds(len(loaded)), before) + behind


def price_s(kinds: list[str], loaded: set[int], price: LoadPrice, wait_s: float, others: int) -> float:
    """What the turn waits, and others for what it computes."""
    computed = {index for index, kind in enumerate(kinds) if kind != "found"} - loaded
    return seconds(kinds, loaded, price, wait_s) + others * sum(map(COST.block_seconds, computed))


def blocks(runs: tuple[tuple[int, int], ...]) -> list[int]:
    return [index for start, end in runs for index in range(start, end)]


def each_block_once(kinds: list[str], split: Split) -> None:
    loaded, computed = blocks(split.loaded), blocks(split.computed)
    assert sorted(loaded + computed) == [index for index, kind in enumerate(kinds) if kind != "found"]
    assert all(kinds[index] == "below" for index in loaded)
    for runs in (split.loaded, split.computed):
        assert all(one[1] < other[0] for one, other in pairwise(runs)), "runs are maximal"


@given(MISSING, PRICES, WAITS, OTHERS)
def test_no_other_division_costs_less(kinds: list[str], price: LoadPrice, wait_s: float, others: int) -> None:
    split = split_runs(runs_of(kinds), COST, price, wait_s, others)
    each_block_once(kinds, split)
    assert split.seconds == pytest.approx(seconds(kinds, set(blocks(split.loaded)), price, wait_s))
    below = [index for index, kind in enumerate(kinds) if kind == "below"]
    ways = product([False, True], repeat=len(below))
    divided = [{index for index, taken in zip(below, way, strict=True) if taken} for way in ways]
    best = min(price_s(kinds, loaded, price, wait_s, others) for loaded in divided)
    assert price_s(kinds, set(blocks(split.loaded)), price, wait_s, others) == pytest.approx(best)


@given(st.integers(0, 3), MISSING, PRICES, WAITS, OTHERS)
def test_no_other_extension_of_a_prefix_costs_less(
    found: int, rest: list[str], price: LoadPrice, wait_s: float, others: int
) -> None:
    kinds = ["found"] * found + ["gone" if kind == "found" else kind for kind in rest]
    split = split_prefix(runs_of(kinds), COST, price, wait_s, others)
    each_block_once(kinds, split)
    assert blocks(split.loaded) == list(range(found, found + len(blocks(split.loaded))))
    longest = next((index for index in range(found, len(kinds)) if kinds[index] != "below"), len(kinds))
    ways = [price_s(kinds, set(range(found, end)), price, wait_s, others) for end in range(found, longest + 1)]
    assert price_s(kinds, set(blocks(split.loaded)), price, wait_s, others) == pytest.approx(min(ways))


def test_a_fast_link_loads_all_and_a_slow_one_the_tail_while_the_head_is_computed() -> None:
    missing = [Run(0, 100, True)]
    assert split_runs(missing, COST, LoadPrice(1e-6)).loaded == ((0, 100),)
    even = split_runs(missing, COST, LoadPrice(1e-3))  # the 41 last ones take as long as the 59 first
    assert (even.loaded, even.computed) == (((59, 100),), ((0, 59),))
    assert even.seconds == pytest.approx(0.041)
    assert split_runs(missing, COST, LoadPrice(10.0)).loaded == ()


def test_the_more_wait_for_what_is_computed_the_more_is_loaded() -> None:
    starts = [
        split_runs([Run(0, 100, True)], COST, LoadPrice(1e-3), others=others).loaded[0][0] for others in (0, 1, 9)
    ]
    assert starts == [59, 45, 1]


def test_a_long_queue_before_the_link_is_not_waited_for() -> None:
    assert split_runs([Run(0, 10, True)], COST, LoadPrice(1e-6), wait_s=9.0).loaded == ()
    assert split_prefix([Run(0, 10, True)], COST, LoadPrice(1e-6), wait_s=9.0).loaded == ()


def test_where_prefixes_alone_are_reused_nothing_behind_a_gap_is_loaded() -> None:
    missing = [Run(4, 6, True), Run(6, 7, False), Run(7, 9, True)]
    assert split_prefix(missing, COST, LoadPrice(1e-6))[:2] == (((4, 6),), ((6, 9),))
    assert split_prefix(missing[1:], COST, LoadPrice(1e-6))[:2] == ((), ((6, 9),))
    assert split_runs(missing, COST, LoadPrice(1e-6))[:2] == (((4, 6), (7, 9)), ((6, 7),))
    assert split_runs([], COST, LoadPrice(1e-6)) == split_prefix([], COST, LoadPrice(1e-6)) == Split((), (), 0.0)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 1e-5, 3e-4, 1.0]))
def test_prices_over_a_tier_are_a_load_at_most(head: int, count: int, block_s: float) -> None:
    tiered = TieredCost(COST.profile, 1, LoadPrice(block_s))
    alone = [tiered.block_seconds(head + index) for index in range(count)]
    assert alone == [min(COST.block_seconds(head + index), block_s) for index in range(count)]
    assert tiered.run_seconds(head, count) == pytest.approx(sum(alone), abs=1e-12)


def test_a_load_spares_less_the_longer_it_takes() -> None:
    middling_s = COST.block_seconds(32_768)
    shares = [spared_share(COST, LoadPrice(factor * middling_s)) for factor in (0.0, 0.25, 1.0, 3.0)]
    assert shares == pytest.approx([1.0, 0.75, 0.0, 0.0])


@pytest.mark.parametrize(("block_s", "copy_s"), [(-1.0, 0.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_a_price_is_a_number_of_seconds(block_s: float, copy_s: float) -> None:
    with pytest.raises(ConfigError, match="finite seconds >= 0"):
        LoadPrice(block_s, copy_s)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_link_has_a_speed(speed: float) -> None:
    with pytest.raises(ConfigError, match="a speed above 0"):
        LoadPrice.of_link(1e6, speed)
    assert LoadPrice.of_link(1e6, 25e9).block_s == pytest.approx(4e-5)
