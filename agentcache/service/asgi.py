"""Calls an ASGI application in this process and yields its answer as it comes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from agentcache.service.call import Call

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

AHEAD = 64
"""Messages that an application may be ahead of its reader."""


async def answer(app: App, call: Call) -> AsyncIterator[tuple[int, Headers] | bytes]:
    """Status and headers first, then the body in pieces; what has piled up comes as one piece.

    Leaving the iterator cancels the application's work. Raises what the application raises.
    """
    messages: asyncio.Queue[Message | Exception | None] = asyncio.Queue(AHEAD)
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:  # a client that is gone is told by cancelling
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def work() -> None:
        try:
            await app(_scope(call), receive, messages.put)
        except Exception as error:
            await messages.put(error)
        else:
            await messages.put(None)

    task = asyncio.create_task(work())
    try:
        body: list[bytes] = []
        while True:
            if body and messages.empty():
                yield b"".join(body)
                body.clear()
            message = await messages.get()
            if isinstance(message, Exception):
                raise message
            if message is None:
                break
            if message["type"] == "http.response.start":
                yield message["status"], tuple((bytes(name), bytes(value)) for name, value in message["headers"])
            elif piece := message.get("body"):
                body.append(bytes(piece))
        if body:
            yield b"".join(body)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _scope(call: Call) -> Message:
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
