"""What ASGI middleware of vLLM's server does with a request: take its whole body in, and hand it on."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
"""Where turns come in."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_turn(scope: Scope) -> bool:
    """Whether this is a request for a turn."""
    return scope["type"] == "http" and scope["method"] == "POST" and str(scope["path"]).endswith(ROUTES)


async def whole_body(receive: Receive) -> tuple[bytes | None, Receive]:
    """The body of a request, None if its client has left; and what hands on whatever came, and then what comes."""
    parts: list[bytes] = []
    message: Message = {}
    while not parts or message.get("more_body"):
        message = await receive()
        if message["type"] != "http.request":
            return None, replay([message], receive)
        parts.append(message.get("body", b""))
    body = b"".join(parts)
    return body, replay([{"type": "http.request", "body": body, "more_body": False}], receive)


def replay(messages: list[Message], receive: Receive) -> Receive:
    """These messages first, then whatever comes."""

    async def next_message() -> Message:
        return messages.pop(0) if messages else await receive()

    return next_message
