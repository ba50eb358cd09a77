"""The fixed schedule: turns at their recorded times, as if nothing ever queued; it measures the workload alone."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence

from agentcache_workloads.readers.writers.agentkv_writer import common_prefix
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.jobs.render import Renderer

UNRECORDED_SERVICE_S = 5.0  # of a call whose service time the source does not say


def mean_live_tokens(jobs: Sequence[PlannedJob], slots: int, renderer: Renderer, tokens_per_block: int) -> float:
    """Time-mean of the unique tokens in the current contexts of started, unfinished jobs; in engine tokens.

    Pauses and service times are the recorded ones, in trace seconds, so that `time_scale` cancels out. The context of
    a branch is the prompt and output of the last turn it has sent, from that turn's start to the branch's end. Blocks
    that contexts share count once; the rest of prompts, and outputs, belong to one context each.
    """
    host = _Measured(_LiveTokens(renderer, tokens_per_block))
    drive(ClosedLoop(jobs, slots, 1.0, 0.0), host)
    return host.total / host.now if host.now else float(host.live.peak)


class RecordedTimes:
    """The host in which every call takes its recorded time and nothing queues; in trace seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._running: list[
            tuple[float, int, int, PlannedTurn]
        ] = []  # (end, job, position): ties go to the earlier job

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        heapq.heappush(self._running, (self.now + service_s(turn), number, turn.index, turn))

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        running = self._running
        self.now = min(at for at in (until_s, running[0][0] if running else None) if at is not None)
        while running and running[0][0] <= self.now:
            _, number, _, turn = heapq.heappop(running)
            yield TurnEnd(number, turn, self.now)

    def leave(self, number: int) -> None:
        pass


def service_s(turn: PlannedTurn) -> float:
    """How long the call took, from its request to its last token."""
    return UNRECORDED_SERVICE_S if turn.call.api_s is None else turn.call.api_s


class _Measured(RecordedTimes):
    """Integrates the live tokens over the recorded times, in `total`."""

    def __init__(self, live: "_LiveTokens") -> None:
        super().__init__()
        self.live = live
        self.total = 0.0

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        super().send(due_s, number, turn, last)
        self.live.show(turn)

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        before_s, tokens = self.now, self.live.tokens
        ends = list(super().run(until_s))
        self.total += tokens * (self.now - before_s)
        for end in ends:
            if end.turn.followed_by is None:
                self.live.close(end.turn.context)
        return iter(ends)


class _LiveTokens:
    """Counts the unique tokens of the contexts shown to it."""

    def __init__(self, renderer: Renderer, tokens_per_block: int) -> None:
        self._renderer = renderer
        self._k = tokens_per_block
        self._users: Counter[object] = Counter()
        self._contexts: dict[str, tuple[tuple[object, ...], int]] = {}
        self._own = 0
        self.peak = 0

    @property
    def tokens(self) -> int:
        return len(self._users) * self._k + self._own

    def show(self, turn: PlannedTurn) -> None:
        sizes = self._renderer.sizes(turn)
        self._set(turn.context, tuple(turn.call.items or ())[: sizes.body // self._k], sizes.total - sizes.body)
        self.peak = max(self.peak, self.tokens)

    def close(self, context: str) -> None:
        self._set(context, (), 0)
        del self._contexts[context]

    def _set(self, context: str, ids: tuple[object, ...], own: int) -> None:
        before, own_before = self._contexts.get(context, ((), 0))
        kept = common_prefix(before, ids)
        for item in before[kept:]:
            self._users[item] -= 1
            if not self._users[item]:
                del self._users[item]
        self._users.update(ids[kept:])
        self._own += own - own_before
        self._contexts[context] = (ids, own)
