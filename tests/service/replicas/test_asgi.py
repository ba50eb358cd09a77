"""Calling an application in this process, and work that ends when its client leaves."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentcache.service.replicas.asgi import Attended, Message, answer
from agentcache.service.routing.call import RoutedCall

CALL = RoutedCall("POST", "/x", b"q=1", ((b"a", b"b"),), b"body")
START = {"type": "http.response.start", "status": 201, "headers": [(b"k", b"v")]}
END = {"type": "http.response.body", "body": b"x"}


def test_the_application_sees_the_request() -> None:
    seen: dict[str, Any] = {}
    said: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=await receive())
        await send(START)
        await send(END)

    async def send(message: Message) -> None:
        said.append(message)

    asyncio.run(answer(app, CALL, send))
    assert said == [START, END]
    assert (seen["method"], seen["path"], seen["query_string"]) == ("POST", "/x", b"q=1")
    assert seen["headers"] == [(b"a", b"b")] and seen["body"]["body"] == b"body"


def test_an_application_that_fails_fails_its_caller() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken")

    async def send(message: Message) -> None: ...

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(answer(app, CALL, send))


def test_an_application_that_fails_after_its_answer_has_answered() -> None:
    """As Starlette does with what nobody handles: the 500 is whole."""
    said: list[Message] = []

    async def app(request: Request) -> Response:
        raise ValueError("broken")

    async def send(message: Message) -> None:
        said.append(message)

    asyncio.run(answer(Starlette(routes=[Route("/x", app, methods=["POST"])]), CALL, send))
    assert said[0]["status"] == 500 and b"Internal Server Error" in said[-1]["body"]


class Client:
    """A server's view of a client, who leaves when `gone` is set, or is said to have when it has its answer."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.parts = [b"a", b"b"]
        self.said: list[Message] = []

    async def receive(self) -> Message:
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.said.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.gone.set()


def test_a_client_that_leaves_ends_the_work() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive())["more_body"]:
                pass
            await send(START)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def work() -> None:
        client = Client()
        task = asyncio.create_task(Attended(app)({}, client.receive, client.send))
        while not client.said:
            await asyncio.sleep(0)
        client.gone.set()
        await task

    asyncio.run(work())
    assert ended == ["cancelled"]


def test_a_client_that_has_its_answer_ends_nothing() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send(START)
        await send(END)
        await asyncio.sleep(0.01)  # what is left to do after an answer
        ended.append("done")

    async def work() -> None:
        client = Client()
        await Attended(app)({}, client.receive, client.send)
        assert client.said == [START, END]

    asyncio.run(work())
    assert ended == ["done"]


def test_who_cancels_the_work_hears_of_it() -> None:
    works = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        works.set()
        await asyncio.Event().wait()

    async def work() -> None:
        client = Client()
        task = asyncio.create_task(Attended(app)({}, client.receive, client.send))
        await works.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
