"""ASGI from both sides: calling an application with a request that is here, and work that ends with its client."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agentcache.service.routing.call import RoutedCall

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


async def answer(app: App, call: RoutedCall, send: Send) -> None:
    """Have an application answer a call. Raises what it raises before the end; cancelling this cancels its work."""
    asked = ended = False

    async def receive() -> Message:
        nonlocal asked
        if asked:  # a client that is gone is told by cancelling
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def say(message: Message) -> None:
        nonlocal ended
        await send(message)
        ended = message["type"] == "http.response.body" and not message.get("more_body")

    try:
        await app(_scope(call), receive, say)
    except Exception as error:
        if not ended:
            raise
        # Starlette raises what it has answered with 500: that is a whole answer.
        logger.warning("%s failed after its answer: %s", call.path, type(error).__name__)


class Attended:
    """An ASGI application whose work is cancelled when the client leaves: no server but Serve's does that itself."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        work = asyncio.current_task()
        assert work
        watching: asyncio.Task[None] | None = None
        left = False

        async def watch() -> None:
            nonlocal left
            await receive()  # after the body, there is nothing to hear but that the client has gone
            left = True
            work.cancel()

        async def hear() -> Message:
            nonlocal watching
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                watching = asyncio.create_task(watch())
            return message

        async def say(message: Message) -> None:
            if watching and message["type"] == "http.response.body" and not message.get("more_body"):
                watching.cancel()  # a server says after the last message that the client has gone
            await send(message)

        try:
            await self._app(scope, hear, say)
        except asyncio.CancelledError:
            if not left:
                raise
            work.uncancel()
        finally:
            if watching:
                watching.cancel()


def _scope(call: RoutedCall) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": call.query,
        "root_path": "",
        "headers": list(call.headers),
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
