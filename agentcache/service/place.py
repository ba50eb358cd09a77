"""One call in the books of Ray Serve, by which it bounds what a replica takes, drains it and scales."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

from ray.serve.handle import DeploymentHandle

from agentcache.service.call import Plan
from agentcache.service.wire import Address

RUNS_AFTER_S = 0.1


class Place:
    """A call's place at a replica: reserved before the call is sent, and running once its first byte has passed.

    Telling Serve that it runs costs the replica a message, for which the first byte had better not wait; a call that
    gets none for long is told of all the same, because autoscaling counts what runs.
    """

    def __init__(self, handle: DeploymentHandle[Any], plan: Plan) -> None:
        self._handle, self._plan = handle, plan
        self._reserved = AsyncExitStack()
        self._chosen: Any = None
        self._held: Any = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> Address:
        """Have the router choose a replica, which then has room for the call: where it takes calls."""
        self._chosen = await self._reserved.enter_async_context(self._handle.choose_replica(plan=self._plan))
        self._plan.replica = self._chosen.replica_id
        self._timer = asyncio.get_running_loop().call_later(RUNS_AFTER_S, self.run)
        return Address(**self._chosen.replica_metadata)

    def run(self) -> None:
        """Have Serve count the call as one that runs."""
        if self._held is None:
            self._held = self._handle.dispatch(self._chosen, self._plan.request)

    async def leave(self, answered: bool) -> None:
        """End Serve's part of the call: nobody waits for it."""
        if self._timer:
            self._timer.cancel()
        with suppress(Exception, asyncio.CancelledError):
            if self._held and not answered:
                self._held.cancel()
            if self._held:
                await self._held
        await self._reserved.aclose()
