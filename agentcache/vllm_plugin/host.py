"""The engine as a host of the core: one residency, one clock, and everybody who listens to the events."""

import time
from collections.abc import Callable

from agentcache.model import Decision, Event, Stop, TurnAborted, TurnArrived, TurnFinished, TurnPreempted
from agentcache.residency import Residency
from agentcache.vllm_plugin.compat import Request, RequestStatus
from agentcache.vllm_plugin.hints import read_hints

Listener = Callable[[Event, float], None]


class Host:
    """Feeds the residency with what the scheduler sees. `now` stands still within one scheduling step."""

    def __init__(self, residency: Residency, clock: Callable[[], float] = time.monotonic) -> None:
        self.residency = residency
        self.listeners: list[Listener] = []
        self._clock = clock
        self.now = clock()

    def tick(self) -> None:
        """A new step: the clock moves on."""
        self.now = self._clock()

    def observe(self, event: Event) -> list[Decision]:
        decisions = self.residency.observe(event, self.now)
        for listener in self.listeners:
            listener(event, self.now)
        return decisions

    def arrived(self, request: Request) -> None:
        hints = read_hints(request)
        keys = tuple(request.block_hashes)
        self.observe(TurnArrived(request.request_id, keys, hints.job, hints.context, hints.tool_ran, request.priority))

    def preempted(self, request: Request) -> None:
        self.observe(TurnPreempted(request.request_id))

    def finished(self, request: Request) -> None:
        if request.status not in _STOPS:
            self.observe(TurnAborted(request.request_id))
            return
        hints = read_hints(request)
        stop = Stop.TOOL_USE if hints.tool_next else _STOPS[request.status]
        keys = tuple(request.block_hashes)
        self.observe(TurnFinished(request.request_id, keys, stop, hints.tool_next, hints.last))


_STOPS = {
    RequestStatus.FINISHED_STOPPED: Stop.END_TURN,
    RequestStatus.FINISHED_LENGTH_CAPPED: Stop.LENGTH,
    RequestStatus.FINISHED_REPETITION: Stop.UNKNOWN,
}
