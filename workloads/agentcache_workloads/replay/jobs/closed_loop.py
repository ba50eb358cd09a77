"""The closed loop: which turns may be sent at a time, when jobs hold slots and turns wait for what they depend on.

`drive` is the one driver of it: simulated engines, a cluster of them, the recorded times and a live engine are hosts.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agentcache.errors import CheckFailed
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.result import JobRecord


@dataclass(slots=True)
class StartedJob:
    """A started job. Times are seconds on the loop's clock; `None` in `finished_s` is a turn not complete yet."""

    job: PlannedJob
    arrived_s: float
    missing: list[int]
    finished_s: list[float | None]

    @property
    def done(self) -> bool:
        return None not in self.finished_s

    @property
    def ended_s(self) -> float:
        return max(at for at in self.finished_s if at is not None)

    @property
    def critical_pause_s(self) -> float:
        """Trace seconds of pauses on the chain of turns that the job's end waited for; all of them if it is one."""
        finished = [at or 0.0 for at in self.finished_s]
        chain: tuple[int, ...] = tuple(range(len(finished)))
        pause_s = 0.0
        while chain:
            last = self.job.turns[max(chain, key=finished.__getitem__)]
            pause_s += last.pause_s
            chain = last.after
        return pause_s


class ClosedLoop:
    """`slots` jobs are open at once; a slot takes the next job, in the order given, when its job ends.

    The slots open evenly over the first `ramp_s` seconds. With `arrivals` (seconds, one a job) the loop is open: every
    job starts at its time, whatever the engine does.
    A turn is due when all that it depends on is complete and its pause, times `time_scale`, has passed. The caller
    owns the clock: it takes what is `due(now)`, reports each end by `finish`, and may sleep until `next_s`.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        slots: int,
        time_scale: float,
        now: float,
        arrivals: Sequence[float] | None = None,
        ramp_s: float = 0.0,
    ) -> None:
        self._jobs = jobs
        self._time_scale = time_scale
        self._taken = 0
        self._waiting: list[tuple[float, int, int]] = []  # (due, job, turn): ties go to the earlier job
        self._sent: set[tuple[int, int]] = set()
        self.progress: dict[int, StartedJob] = {}
        self.ended: dict[int, StartedJob] = {}
        if arrivals is None:
            arrivals = [now + ramp_s * slot / slots for slot in range(min(slots, len(jobs)))]
        for arrival_s in arrivals:
            self._take(arrival_s)

    @property
    def done(self) -> bool:
        return not self.progress and self._taken == len(self._jobs)

    @property
    def next_s(self) -> float | None:
        """When the next turn becomes due; None when every open turn waits for another."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now: float) -> list[tuple[float, int, PlannedTurn]]:
        """Take out the turns that are due: (since when, number of the job, turn). They count as sent."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            at, number, index = heapq.heappop(self._waiting)
            self._sent.add((number, index))
            due.append((at, number, self._jobs[number].turns[index]))
        return due

    def finish(self, number: int, turn: PlannedTurn, now: float) -> None:
        """A turn that was sent is complete."""
        self._sent.remove((number, turn.index))
        progress = self.progress[number]
        progress.finished_s[turn.index] = now
        for later in progress.job.turns[turn.index + 1 :]:
            if turn.index in later.after:
                progress.missing[later.index] -= 1
                if not progress.missing[later.index]:
                    self._wait(number, later, now)
        if progress.done:
            self.ended[number] = progress
            self._leave(number, now)

    def is_last(self, number: int, turn: PlannedTurn) -> bool:
        """Whether the turn is all that its job still waits for."""
        finished = self.progress[number].finished_s
        return all(at is not None for index, at in enumerate(finished) if index != turn.index)

    def abandon(self, number: int, now: float) -> None:
        """Give a job up: none of its turns is sent any more, and its slot takes the next job. It has no latency."""
        self._waiting = [entry for entry in self._waiting if entry[1] != number]
        heapq.heapify(self._waiting)
        self._sent = {sent for sent in self._sent if sent[0] != number}
        self._leave(number, now)

    def _leave(self, number: int, now: float) -> None:
        del self.progress[number]
        if self._taken < len(self._jobs):
            self._take(now)

    def _take(self, now: float) -> None:
        number, self._taken = self._taken, self._taken + 1
        job = self._jobs[number]
        self.progress[number] = StartedJob(job, now, [len(t.after) for t in job.turns], [None] * len(job.turns))
        for turn in job.turns:
            if not turn.after:
                self._wait(number, turn, now)

    def _wait(self, number: int, turn: PlannedTurn, now: float) -> None:
        heapq.heappush(self._waiting, (now + turn.pause_s * self._time_scale, number, turn.index))

    def records(self) -> list[JobRecord]:
        """The jobs that have ended, in the order of their ends."""
        return [
            JobRecord(p.job.id, p.arrived_s, p.ended_s, p.critical_pause_s * self._time_scale)
            for p in self.ended.values()
        ]

    def check(self) -> None:
        """Recount: every turn of an open job is complete, sent, waiting for its pause, or waiting for another."""
        waiting = {(number, index) for _, number, index in self._waiting}
        for number, progress in self.progress.items():
            for turn in progress.job.turns:
                complete = progress.finished_s[turn.index] is not None
                missing = sum(progress.finished_s[index] is None for index in turn.after)
                states = [complete, (number, turn.index) in self._sent, (number, turn.index) in waiting, missing > 0]
                if sum(states) != 1 or missing != progress.missing[turn.index]:
                    raise CheckFailed(f"turn {turn.id}: complete, sent, waiting, blocked = {states}, expected one true")
        if len(self.progress) + len(self.ended) > self._taken:
            raise CheckFailed(f"{len(self.progress)} open + {len(self.ended)} ended jobs, {self._taken} taken")


class TurnEnd(NamedTuple):
    """A turn that was sent is over, at `now` seconds on the loop's clock. `failed`: what follows it cannot be sent."""

    number: int
    turn: PlannedTurn
    now: float
    failed: bool = False


class Sender(Protocol):
    """Where due turns go. It owns the loop's clock."""

    @property
    def now(self) -> float:
        """Seconds since the run's start."""

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        """Take a turn of job `number`, due since `due_s`; `last`: nothing else of its job is left."""


class LoopHost(Sender, Protocol):
    """What runs turns in this thread: a simulated engine or a live one, a cluster, or the recorded times."""

    def run(self, until_s: float | None) -> Iterable[TurnEnd]:
        """Go on until turns end, at most a step or to `until_s`, when the next turn is due (None: none is known).

        Returns the turns that ended, in the order in which the loop hears of them; the clock stands at the last one.
        """

    def leave(self, number: int) -> None:
        """A job is over, complete or given up: what is kept for it may go."""


def drive(loop: ClosedLoop, host: LoopHost) -> None:
    """Run all jobs of a loop to their end."""
    for until_s in rounds(loop, host):
        for end in host.run(until_s):
            if settle(loop, end):
                host.leave(end.number)


def rounds(loop: ClosedLoop, sender: Sender) -> Iterator[float | None]:
    """Send what is due, again and again until all jobs are over; between, the caller waits for ends.

    Yields when the next turn becomes due, None when every open turn waits for another.
    """
    while not loop.done:
        for due_s, number, turn in loop.due(sender.now):
            sender.send(due_s, number, turn, loop.is_last(number, turn))
        yield loop.next_s


def settle(loop: ClosedLoop, end: TurnEnd) -> bool:
    """Tell the loop of an end, by which a job that failed is given up; true if the job is over."""
    if end.failed:
        loop.abandon(end.number, end.now)
    else:
        loop.finish(end.number, end.turn, end.now)
    return end.number not in loop.progress
