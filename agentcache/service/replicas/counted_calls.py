"""The calls of a replica, and how long Serve counts each: its word of a call and the call itself come two ways."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentcache.service.routing.call import Plan

LATE_S = 60.0
"""What has not come so long after its other half is not expected any more."""


class CallTally:
    """Calls that are open, by request; those that Serve waits for; those that have ended before it told of them.

    Of the last it forgets what is older than `late_s` when the next call ends: their callers were lost, or Serve was.
    """

    def __init__(self, late_s: float = LATE_S) -> None:
        self.open: dict[str, Plan] = {}
        self._late_s = late_s
        self._awaited: dict[str, asyncio.Event] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How much is remembered of all calls."""
        return len(self.open) + len(self._awaited) + len(self._ended)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """A call runs here. One that fails, or whose caller leaves, Serve is told no more of."""
        self.open[plan.request] = plan
        answered = False
        try:
            yield
            answered = True
        finally:
            del self.open[plan.request]
            now = asyncio.get_running_loop().time()
            if awaited := self._awaited.get(plan.request):
                awaited.set()
            elif answered:
                self._ended[plan.request] = now
            while self._ended and now - next(iter(self._ended.values())) > self._late_s:
                self._ended.popitem(last=False)

    async def hold(self, request: str) -> None:
        """Return when a call has ended: at once if it has already, and late if it never comes."""
        if self._ended.pop(request, None) is not None:
            return
        ended = self._awaited[request] = asyncio.Event()
        try:
            if request not in self.open:
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), self._late_s)
            if request in self.open:
                await ended.wait()
        finally:
            del self._awaited[request]
