"""Calling an application in this process: pieces in order, errors as they are, and work that ends with its reader."""

import asyncio
from typing import Any

import pytest

from agentcache.service.asgi import AHEAD, answer
from agentcache.service.call import Call

CALL = Call("POST", "/x", b"q=1", ((b"a", b"b"),), b"body")


async def read(app: Any) -> list[Any]:
    return [part async for part in answer(app, CALL)]


def test_the_application_sees_the_request() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=await receive())
        await send({"type": "http.response.start", "status": 201, "headers": [(b"k", b"v")]})
        await send({"type": "http.response.body", "body": b"x"})

    assert asyncio.run(read(app)) == [(201, ((b"k", b"v"),)), b"x"]
    assert (seen["method"], seen["path"], seen["query_string"]) == ("POST", "/x", b"q=1")
    assert seen["headers"] == [(b"a", b"b")] and seen["body"]["body"] == b"body"


def test_pieces_come_in_order_and_together_when_they_wait() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3 * AHEAD):
            await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    _, *pieces = asyncio.run(read(app))
    assert b"".join(pieces) == b"".join(b"%d," % number for number in range(3 * AHEAD))
    assert len(pieces) < AHEAD


def test_an_application_that_fails_fails_its_caller() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read(app))


def test_a_reader_that_leaves_ends_the_work() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def leave() -> None:
        parts = answer(app, CALL)
        await anext(parts)
        await anext(parts)
        await parts.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert ended == ["cancelled"]
