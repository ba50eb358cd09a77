"""ASGI middleware of vLLM's server: Continuum's top-level request fields go where stock vLLM reads extra arguments.

Stock vLLM drops unknown top-level fields. A client written for Continuum's preview puts its four fields there; they are
moved into `vllm_xargs`, of which those that the client wrote itself win. Whatever they hold, the request is served.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agentcache_continuum.fields import FIELDS, as_xarg

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ContinuumFields:
    """`--middleware agentcache_continuum.middleware.ContinuumFields`; `agentcache serve` adds it by itself."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(ROUTES):
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        message: Message = {}
        while not parts or message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":  # the client has gone
                break
            parts.append(message.get("body", b""))
        if message["type"] != "http.request":
            await self.app(scope, _replay([message], receive), send)
            return
        body = rewrite(b"".join(parts))
        length = str(len(body)).encode()
        headers = [(key, length if key == b"content-length" else value) for key, value in scope["headers"]]
        whole = {"type": "http.request", "body": body, "more_body": False}
        await self.app({**scope, "headers": headers}, _replay([whole], receive), send)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """These messages first, then whatever comes."""

    async def next_message() -> Message:
        return messages.pop(0) if messages else await receive()

    return next_message


def rewrite(body: bytes) -> bytes:
    """A request's body with the fields moved; anything that is not such a request is returned as it is."""
    if not any(name.encode() in body for name in FIELDS):
        return body
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(request, dict):
        return body
    given = request.get("vllm_xargs")
    xargs = given if isinstance(given, dict) else {}
    said = {name: value for name in FIELDS if (value := as_xarg(name, request.pop(name, None))) is not None}
    said |= {name: as_xarg(name, value) for name, value in xargs.items() if name in FIELDS and value is not None}
    others = {name: value for name, value in xargs.items() if name not in FIELDS}
    if given is None or isinstance(given, dict):
        request["vllm_xargs"] = {**others, **said}
    return json.dumps(request).encode()
