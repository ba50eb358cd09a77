"""Shapes of the grid can be made: gaps in order and apart, in whole blocks, within the chunk."""

from itertools import pairwise

import pytest

from agentcache.vllm_plugin.lab.profiling.grid import DECODES, lengths, phases, shapes


@pytest.mark.parametrize(("max_len", "chunk", "block"), [(4096, 2048, 32), (8160, 512, 16), (1024, 2048, 64)])
def test_shapes_can_be_made(max_len: int, chunk: int, block: int) -> None:
    found = shapes(max_len, chunk, block)
    assert len(found) == len(set(found)) > 20
    for shape in found:
        assert all(start < end and start % block == end % block == 0 for start, end in shape.gaps)
        assert all(end < start for (_, end), (start, _) in pairwise(shape.gaps))
        assert shape.gaps[-1][1] in lengths(max_len, block)
        assert sum(end - start for start, end in shape.gaps) <= chunk
    assert {len(shape.gaps) for shape in found} == {1, 2, 4, 8}


def test_lengths_are_geometric() -> None:
    assert lengths(4096, 32) == [512, 672, 896, 1248, 1664, 2240, 3040, 4096]
    assert lengths(512, 64)[0] == 64


def test_half_of_the_points_have_decodes_beside() -> None:
    plan = phases(120, 4096, 2048, 32)
    assert sum(len(phase.shapes) for phase in plan) == 120
    assert [(phase.decodes, len(phase.shapes)) for phase in plan] == [(0, 60)] + [(n, 12) for n, _ in DECODES[1:]]
    assert all(sum(not shape.gaps for shape in phase.shapes) == 2 for phase in plan[1:])
    assert all(shape.gaps for shape in plan[0].shapes)
    assert plan == phases(120, 4096, 2048, 32)
