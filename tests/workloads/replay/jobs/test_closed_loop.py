from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import CheckFailed
from agentcache_workloads.readers.trace import TraceCall
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn

CALL = TraceCall(0, None, 0.0, "tool", 1, 1, "blocks", (), "tool_use", (), (), None, None, {})


def job(name: str, *turns: tuple[tuple[int, ...], float]) -> PlannedJob:
    """A job from (what it waits for, its pause) of each turn."""
    return PlannedJob(
        name,
        tuple(
            PlannedTurn(f"{name}/{i}", i, name, CALL, after, pause, "first", None, None)
            for i, (after, pause) in enumerate(turns)
        ),
    )


@st.composite
def jobs(draw: st.DrawFn) -> list[PlannedJob]:
    made = []
    for n in range(draw(st.integers(1, 5))):
        turns: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for i in range(1, draw(st.integers(1, 6))):
            after = draw(st.sets(st.integers(0, i - 1), min_size=1, max_size=3))
            turns.append((tuple(after), float(draw(st.integers(0, 5)))))
        made.append(job(f"j{n}", *turns))
    return made


@given(jobs(), st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0]), st.randoms(use_true_random=False))
def test_every_turn_is_sent_once_when_it_may(work: list[PlannedJob], slots: int, scale: float, random: object) -> None:
    loop = ClosedLoop(work, slots, scale, 0.0)
    now, sent, finished = 0.0, [], {}
    order = []
    while not loop.done:
        loop.check()
        for since, number, turn in loop.due(now):
            assert number not in loop.ended
            ready = max((finished[number, i] for i in turn.after), default=loop.progress[number].arrived_s)
            assert since == pytest.approx(ready + turn.pause_s * scale)
            assert since <= now
            sent.append((number, turn))
            order.append((number, turn.index))
        assert len(loop.progress) <= slots
        loop.check()
        if sent and random.random() < 0.6:  # type: ignore[attr-defined]
            number, turn = sent.pop(random.randrange(len(sent)))  # type: ignore[attr-defined]
            now += 0.25
            assert loop.is_last(number, turn) == (sum(n == number for n, _ in finished) == len(work[number].turns) - 1)
            loop.finish(number, turn, now)
            finished[number, turn.index] = now
        elif loop.next_s is not None:
            now = max(now, loop.next_s)
    assert sorted(order) == [(n, turn.index) for n, j in enumerate(work) for turn in j.turns]
    for number, progress in loop.ended.items():
        assert progress.ended_s == max(at for (n, _), at in finished.items() if n == number)
        assert progress.critical_pause_s * scale <= progress.ended_s - progress.arrived_s + 1e-9


def test_slots_and_scaled_pauses_by_hand() -> None:
    loop = ClosedLoop([job("a", ((), 0), ((0,), 10)), job("b", ((), 0)), job("c", ((), 0))], 2, 0.1, 0.0)
    first = loop.due(0.0)
    assert [turn.id for _, _, turn in first] == ["a/0", "b/0"]
    loop.finish(*first[0][1:], now=1.0)
    assert loop.next_s == 2.0
    assert loop.due(1.9) == []
    loop.finish(*first[1][1:], now=2.5)  # c takes the slot of b
    assert [(since, turn.id) for since, _, turn in loop.due(2.5)] == [(2.0, "a/1"), (2.5, "c/0")]
    assert loop.ended[1].ended_s == 2.5


def test_pauses_on_the_chain_that_the_end_waited_for() -> None:
    # Two branches between the first turn and the last: the slower one (30 s of pause) counts, the other does not.
    loop = ClosedLoop([job("a", ((), 0), ((0,), 30), ((0,), 5), ((1, 2), 7))], 1, 1.0, 0.0)
    now = 0.0
    while not loop.done:
        now = loop.next_s if loop.next_s is not None else now
        for since, number, turn in loop.due(now):
            loop.finish(number, turn, since + 1)
            now = since + 1
    progress = loop.ended[0]
    assert progress.critical_pause_s == 37.0
    assert progress.ended_s == pytest.approx(1 + 30 + 1 + 7 + 1)


def test_a_job_given_up_makes_room() -> None:
    loop = ClosedLoop([job("a", ((), 0), ((0,), 9)), job("b", ((), 0))], 1, 1.0, 0.0)
    [(_, number, turn)] = loop.due(0.0)
    loop.finish(number, turn, 1.0)
    loop.abandon(number, 2.0)
    loop.check()
    assert [turn.id for _, _, turn in loop.due(2.0)] == ["b/0"]
    assert loop.ended == {}


def test_check_finds_a_lost_turn() -> None:
    loop = ClosedLoop([job("a", ((), 0))], 1, 1.0, 0.0)
    loop._waiting.clear()
    with pytest.raises(CheckFailed, match="a/0"):
        loop.check()


class _Host:
    """Ends one open turn at a time, or waits for the next; every fourth end is a failure. It checks the loop."""

    def __init__(self, loop: ClosedLoop, draw: Random) -> None:
        self.now = 0.0
        self.loop, self.draw = loop, draw
        self.open: list[tuple[int, PlannedTurn]] = []
        self.sent: list[str] = []
        self.left: list[int] = []

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        assert due_s <= self.now
        assert last == self.loop.is_last(number, turn)
        self.open.append((number, turn))
        self.sent.append(turn.id)

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        self.loop.check()
        if until_s is not None and (not self.open or self.draw.random() < 0.3):
            self.now = max(self.now, until_s)
            return
        number, turn = self.open.pop(self.draw.randrange(len(self.open)))
        self.now += 0.5
        failed = self.draw.random() < 0.25
        if failed:
            self.open = [entry for entry in self.open if entry[0] != number]
        yield TurnEnd(number, turn, self.now, failed)

    def leave(self, number: int) -> None:
        self.loop.check()
        self.left.append(number)


@given(jobs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_driver_brings_every_job_to_its_end_or_gives_it_up(
    work: list[PlannedJob], slots: int, draw: Random
) -> None:
    loop = ClosedLoop(work, slots, 1.0, 0.0)
    host = _Host(loop, draw)
    drive(loop, host)
    assert loop.done
    assert host.open == []
    assert sorted(host.left) == list(range(len(work)))
    assert len(set(host.sent)) == len(host.sent)
    assert {turn.id for n in loop.ended for turn in work[n].turns} <= set(host.sent)
