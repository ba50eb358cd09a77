"""An ingress without Ray: one ASGI application stands for a replica, the directory runs in this process."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.testclient import TestClient

from agentcache.api.messages import Action, Answer, Explanation, Snapshot
from agentcache.service.config import ServiceConfig
from agentcache.service.directory.directory import Directory
from agentcache.service.front.http import api
from agentcache.service.front.ingress import Ingress
from agentcache.service.front.tenants import Tenants
from agentcache.service.replicas.asgi import Message, answer
from agentcache.service.routing.call import Head, Plan, RoutedCall


async def echo(request: Request) -> Any:
    """Says what reached the replica; streams it in pieces where that was asked for."""
    raw = await request.body()
    body = await request.json() if raw else {}
    seen = {"path": request.url.path, "query": request.url.query, "body": body, "headers": dict(request.headers)}
    if body.get("stream"):

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.01)  # pieces that wait together travel together

        return StreamingResponse(pieces(), media_type="text/event-stream")
    return JSONResponse(seen, body.get("status", 200))


REPLICA = Starlette()
REPLICA.add_route("/{path:path}", echo, methods=["GET", "POST"])


class Direct:
    """Calls the replica's application; `faults` are raised instead, `breaks` ends answers after so many pieces."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.calls: list[RoutedCall] = []
        self.faults: list[Exception] = []
        self.breaks: int | None = None

    async def send(self, call: RoutedCall, plan: Plan, session: str | None) -> AsyncIterator[Head | bytes]:
        self.plans.append(plan)
        self.calls.append(call)
        plan.replica = next(name for name in ("r1", "r2", "r3") if name not in plan.avoid)
        if self.faults:
            raise self.faults.pop()
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await answer(REPLICA, call, keep)
        start, *pieces = messages
        for number, piece in enumerate(pieces):
            if number == self.breaks:
                raise ConnectionError("gone")
            body = piece.get("body", b"")
            yield body if number else Head(start["status"], tuple(start["headers"]), plan.replica, body)


class Local:
    """The directory as the control API asks it."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.away = False

    async def apply(self, action: Action, tenant: str) -> Answer:
        if self.away:
            raise ConnectionError("nobody there")
        return self.directory.apply(action, tenant, time.monotonic())

    async def snapshot(self, tenant: str | None, limit: int) -> Snapshot:
        return self.directory.snapshot(tenant, limit, time.monotonic())

    async def explain(self, tenant: str, job: str) -> Explanation:
        return self.directory.explain(tenant, job, time.monotonic())


class Stand:
    """All of it, and a client."""

    def __init__(self, **options: Any) -> None:
        config = ServiceConfig(model="none", **options)
        self.backend, self.service = Direct(), Local()
        self.ingress = Ingress(config, self.backend, Tenants.load(config.tenants_file))
        self.app = api(self.ingress, self.service)
        self.http = TestClient(self.app)
