"""One call in the books of Ray Serve, by which it bounds what a replica takes, drains it and scales."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

from ray.serve.handle import DeploymentHandle

from agentcache.service.replicas.wire import Address
from agentcache.service.routing.call import Plan

RUNS_AFTER_S = 0.1
"""Most first bytes have passed by then."""


class Place:
    """A call's place at a replica: reserved before the call is sent, and said to run a moment later.

    Saying so is a message to the replica, for which a first byte had better not wait.
    """

    def __init__(self, handle: DeploymentHandle[Any], plan: Plan) -> None:
        self._handle, self._plan = handle, plan
        self._reserved = AsyncExitStack()
        self._chosen: Any = None
        self._running: Any = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> Address:
        """Have the router choose a replica, which then has room for the call: where it takes calls."""
        self._chosen = await self._reserved.enter_async_context(self._handle.choose_replica(plan=self._plan))
        self._plan.replica = self._chosen.replica_id
        self._timer = asyncio.get_running_loop().call_later(RUNS_AFTER_S, self._run)
        return Address(**self._chosen.replica_metadata)

    async def leave(self, answered: bool) -> None:
        """End Serve's part of the call, which counts it if it was answered: nobody waits for it."""
        if self._timer:
            self._timer.cancel()
        with suppress(Exception, asyncio.CancelledError):
            if answered:
                self._run()
            elif self._running:
                self._running.cancel()
            if self._running:
                await self._running
        await self._reserved.aclose()

    def _run(self) -> None:
        if self._running is None:
            self._running = self._handle.dispatch(self._chosen, self._plan.request)
