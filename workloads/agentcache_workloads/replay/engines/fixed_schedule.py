"""The fixed schedule: turns at their recorded times, as if nothing ever queued; it measures the workload alone."""

import heapq
from collections import Counter
from collections.abc import Sequence

from agentcache_workloads.readers.writer import common_prefix
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop
from agentcache_workloads.replay.jobs.jobs import Job, Turn
from agentcache_workloads.replay.jobs.render import Renderer

UNRECORDED_SERVICE_S = 5.0  # of a call whose service time the source does not say


def mean_live_tokens(jobs: Sequence[Job], slots: int, renderer: Renderer, tokens_per_block: int) -> float:
    """Time-mean of the unique tokens in the current contexts of started, unfinished jobs; in engine tokens.

    Pauses and service times are the recorded ones, in trace seconds, so that `time_scale` cancels out. The context of
    a branch is the prompt and output of the last turn it has sent, from that turn's start to the branch's end. Blocks
    that contexts share count once; the rest of prompts, and outputs, belong to one context each.
    """
    loop = ClosedLoop(jobs, slots, 1.0, 0.0)
    running: list[tuple[float, int, int, Turn]] = []
    live = _LiveTokens(renderer, tokens_per_block)
    now = total = 0.0
    while not loop.done:
        times = [at for at in (loop.next_s, running[0][0] if running else None) if at is not None]
        total += live.tokens * (min(times) - now)
        now = min(times)
        while running and running[0][0] <= now:
            _, number, _, turn = heapq.heappop(running)
            if turn.followed_by is None:
                live.close(turn.context)
            loop.finish(number, turn, now)
        for _, number, turn in loop.due(now):
            live.show(turn)
            service_s = UNRECORDED_SERVICE_S if turn.call.api_s is None else turn.call.api_s
            heapq.heappush(running, (now + service_s, number, turn.index, turn))
    return total / now if now else float(live.peak)


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

    def show(self, turn: Turn) -> None:
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
