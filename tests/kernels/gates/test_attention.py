"""The kernels against the reference in fp64, over drawn shapes, with NaN wherever nothing may be read."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcache_kernels.arguments import HEAD_DIMS
from agentcache_kernels.tables import Config
from tests.kernels.gates.batch import LIMITS, Row, error, make

SMALL = Config(16, 16, 4, 1)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    position, row = draw(st.integers(0, 40)), []
    for _ in range(draw(st.integers(0, 5))):
        end = position + draw(st.integers(1, 12))
        row.append((position, end))
        position = end + draw(st.integers(1, 30))
    return row


@given(
    batch=st.lists(rows(), min_size=1, max_size=3).filter(any),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 16),
    d=st.sampled_from(HEAD_DIMS[:6]),
    page=st.sampled_from((16, 32)),
    dtype=st.sampled_from(list(LIMITS)),
    head_major=st.booleans(),
    splits=st.integers(1, 4),
    soft_cap=st.sampled_from((None, 5.0)),
    window=st.sampled_from((None, 1, 17)),
    block_n=st.sampled_from((16, 32, 64)),
    seed=st.integers(0, 9),
)
@settings(max_examples=15, derandomize=True, suppress_health_check=list(HealthCheck))
def test_drawn_batches_agree_with_the_reference(
    batch: list[Row],
    kv_heads: int,
    group: int,
    d: int,
    page: int,
    dtype: torch.dtype,
    head_major: bool,
    splits: int,
    soft_cap: float | None,
    window: int | None,
    block_n: int,
    seed: int,
) -> None:
    made = make(
        batch, heads=kv_heads * group, kv_heads=kv_heads, d=d, page=page, dtype=dtype, head_major=head_major, seed=seed
    )
    got = made.run(Config(32, block_n, 4, 1), splits, soft_cap=soft_cap, window=window)
    out, lse = made.truth(soft_cap, window)
    assert error(got[0], out) < LIMITS[dtype]
    assert float((got[1].cpu() - lse).abs().max()) < 1e-4


@pytest.mark.parametrize("d", HEAD_DIMS)
def test_every_head_size(d: int) -> None:
    made = make([[(3, 5), (30, 33)]], d=d)
    assert error(made.run(SMALL)[0], made.truth()[0]) < 1e-5


@pytest.mark.parametrize("page", [16, 32, 64, 128])
def test_every_block_size(page: int) -> None:
    made = make([[(3, 5), (130, 133)]], page=page)
    assert error(made.run(Config(16, 64, 4, 1))[0], made.truth()[0]) < 1e-5


def test_sixty_four_segments_of_one_request() -> None:
    made = make([[(5 * i, 5 * i + 1 + i % 3) for i in range(64)]])
    assert error(made.run(Config(64, 64, 4, 1))[0], made.truth()[0]) < 1e-5


def test_decodes_prefills_and_holes_of_one_batch() -> None:
    made = make([[(99, 100)], [(0, 20)], [], [(4, 9), (40, 41), (60, 75)], [(31, 32)]])
    assert error(made.run(SMALL, max_splits=3)[0], made.truth()[0]) < 1e-5


def test_more_query_heads_than_rows_of_a_tile() -> None:
    made = make([[(3, 5), (30, 31)]], heads=24, kv_heads=1)
    assert error(made.run(SMALL)[0], made.truth()[0]) < 1e-5


def test_a_batch_without_tokens_is_left_alone() -> None:
    out, lse = make([[], []]).run(SMALL)
    assert (out.numel(), lse.numel()) == (0, 0)


def test_scores_beyond_the_range_of_exp() -> None:
    made = make([[(20, 30)]])
    made.scale = 300.0
    assert error(made.run(SMALL, max_splits=2)[0], made.truth()[0]) < 1e-4


def test_poison_that_is_read_is_seen() -> None:
    """The control: NaN in a slot that rows do see must reach the output."""
    made = make([[(20, 30)]])
    made.v_cache[int(made.block_table[0, 0]), 3] = float("nan")
    assert made.run(SMALL)[0].isnan().all()


@pytest.mark.parametrize("splits", [1, 3])
def test_what_is_behind_every_window_may_be_gone(splits: int) -> None:
    """Its blocks belong to others by then: whatever stands there, between the segments too, is not read."""
    window, row = 5, [(40, 42), (150, 153), (190, 191)]
    made = make([row])
    truth = made.truth(window=window)
    seen = {key for a, b in row for position in range(a, b) for key in range(position + 1 - window, position + 1)}
    for key in set(range(191)) - seen:
        block = int(made.block_table[0, key // 16])
        made.k_cache[block, key % 16] = made.v_cache[block, key % 16] = float("nan")
    out, lse = made.run(SMALL, max_splits=splits, window=window)
    assert error(out, truth[0]) < 1e-5
    assert float((lse.cpu() - truth[1]).abs().max()) < 1e-4


def test_a_split_changes_only_the_order_of_sums() -> None:
    made = make([[(150, 152)]])
    whole, parts = made.run(SMALL)[0], made.run(SMALL, max_splits=8)[0]
    assert error(parts, whole.cpu().double()) < 1e-6


def test_offsets_beyond_two_to_the_thirty_one_elements() -> None:
    """The cache is larger than that, and only the touched pages of it are ever memory."""
    page, kv_heads, d = 16, 2, 16
    made = make([[(5, 7), (40, 41)]], kv_heads=kv_heads, d=d, page=page, dtype=torch.float16)
    block = page * kv_heads * d
    huge = torch.empty(2**31 + 8 * block, dtype=torch.float16, device=made.q.device).view(-1, page, kv_heads, d)
    assert huge.numel() > 2**31
    k_cache, v_cache = huge[: len(huge) // 2 * 2 : 2], huge[1::2]  # keys in even blocks, values in odd ones
    where = [len(k_cache) - 1, 2, len(k_cache) - 2]
    old = made.block_table[0].long()
    for index, place in enumerate(where):
        k_cache[place], v_cache[place] = made.k_cache[old[index]], made.v_cache[old[index]]
    made.k_cache, made.v_cache = k_cache, v_cache
    made.block_table[0] = torch.tensor(where, dtype=torch.int32)
    assert error(made.run(SMALL)[0], made.truth()[0]) < LIMITS[torch.float16]
