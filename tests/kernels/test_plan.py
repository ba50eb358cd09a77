"""The tile plan: every token in one tile, no tile over two requests, bounds from shapes that always suffice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.plan import KEYS, LOW, REQUEST, SPLITS, START, TOKENS, plan_tiles, splits_for, tiles_bound


@given(
    rows=st.lists(st.lists(st.integers(0, 500), max_size=40, unique=True), min_size=1, max_size=6),
    tile_tokens=st.integers(1, 9),
    max_splits=st.integers(1, 5),
)
def test_tiles_cover_each_token_once(rows: list[list[int]], tile_tokens: int, max_splits: int) -> None:
    rows = [sorted(row) for row in rows]
    positions = torch.tensor([p for row in rows for p in row], dtype=torch.int64)
    starts = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()], dtype=torch.int32)
    plan = plan_tiles(positions, starts, tile_tokens=tile_tokens, max_splits=max_splits, split_keys=50)
    assert plan.tiles == tiles_bound(len(positions), len(rows), tile_tokens) or not len(positions)
    covered: list[int] = []
    tiles = plan.fields.T.tolist()
    for tile in tiles:
        if not tile[TOKENS]:
            continue
        first, last = tile[START], tile[START] + tile[TOKENS] - 1
        assert int(starts[tile[REQUEST]]) <= first <= last < int(starts[tile[REQUEST] + 1])
        assert tile[TOKENS] <= tile_tokens
        assert (tile[LOW], tile[KEYS]) == (int(positions[first]), int(positions[last]) + 1)
        assert tile[SPLITS] == max(1, min(max_splits, -(-tile[KEYS] // 50)))
        covered += range(first, last + 1)
    assert sorted(covered) == list(range(len(positions)))
    assert [tile[KEYS] for tile in tiles] == sorted((tile[KEYS] for tile in tiles), reverse=True)


def test_short_holes_of_one_request_share_a_tile() -> None:
    positions = torch.tensor([3, 40, 41, 90, 200, 201])
    plan = plan_tiles(positions, torch.tensor([0, 6], dtype=torch.int32), tile_tokens=8)
    assert plan.tiles == 1
    assert plan.fields[:, 0].tolist() == [0, 0, 6, 3, 202, 1]


def test_a_decode_step_has_one_tile_a_request() -> None:
    assert tiles_bound(64, 64, 32) == 64


def test_few_tiles_are_split_and_many_are_not() -> None:
    assert splits_for(1, 8, 132) == 33
    assert splits_for(1000, 8, 132) == 1
    assert splits_for(1, 1, 10**6) == 64


def test_a_tile_of_no_token_is_refused() -> None:
    with pytest.raises(ArgumentError, match="tile_tokens"):
        plan_tiles(torch.tensor([0]), torch.tensor([0, 1], dtype=torch.int32), tile_tokens=0)
