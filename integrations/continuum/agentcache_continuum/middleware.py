"""ASGI middleware of vLLM's server: Continuum's top-level request fields go where stock vLLM reads extra arguments.

Stock vLLM drops unknown top-level fields. A client written for Continuum's preview puts its four fields there; they are
moved into `vllm_xargs`, of which those that the client wrote itself win. Whatever they hold, the request is served.
"""

import json

from agentcache.vllm_plugin.launch.bodies import App, Receive, Scope, Send, is_turn, replay, whole_body
from agentcache_continuum.fields import FIELDS, as_xarg


class ContinuumFields:
    """`--middleware agentcache_continuum.middleware.ContinuumFields`; `agentcache serve` adds it by itself."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_turn(scope):
            given, rest = await whole_body(receive)
            if given is None:
                receive = rest
            else:
                body = rewrite(given)
                length = str(len(body)).encode()
                headers = [(key, length if key == b"content-length" else value) for key, value in scope["headers"]]
                scope = {**scope, "headers": headers}
                receive = replay([{"type": "http.request", "body": body, "more_body": False}], receive)
        await self.app(scope, receive, send)


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
