"""A proxy for clients that know nothing of jobs: finds out which job a request belongs to, and says it to the server.

    python -m agentcache_continuum.proxy http://localhost:8000 --dialect preview --port 8001

A job is what carries one `X-Session-ID`, or else a conversation: a request whose messages begin with those of an
earlier one goes on with its job. The tool that has run is read from the messages themselves.
"""

import argparse
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, get_args

import httpx

from agentcache.vllm_plugin.launch.bodies import ROUTES, Receive, Scope, Send
from agentcache_continuum.client import Dialect, Job

MAX_JOBS = 4096
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"proxy-authorization"}


class Conversations:
    """Which job a request belongs to, by its session or its messages; remembers the latest jobs."""

    def __init__(self, dialect: Dialect, most: int = MAX_JOBS) -> None:
        self._dialect = dialect
        self._most = most
        self._jobs: OrderedDict[str, Job] = OrderedDict()  # by session, or by all messages of the last request
        self._busy: set[str] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self, session: str | None, messages: Sequence[Any]) -> Job:
        """The job of a request that is about to be sent; a branch of it if it has a request in flight."""
        names = [f"session {session}"] if session else _prefixes(messages)
        known = next((name for name in reversed(names) if name in self._jobs), None)
        job = Job(self._dialect, session) if known is None else self._jobs[known]
        if job.id in self._busy:
            job = job.branch()
        elif known is not None and not session:
            del self._jobs[known]  # the conversation is longer now
        self._busy.add(job.id)
        if names and not (session and names[0] in self._jobs):
            self._jobs[names[-1]] = job
        while len(self._jobs) > self._most:
            self._jobs.popitem(last=False)
        return job

    def done(self, job: Job) -> None:
        """The request has been answered, or has failed."""
        self._busy.discard(job.id)


def _prefixes(messages: Sequence[Any]) -> list[str]:
    """A name for every beginning of a conversation that is more than instructions."""
    names, digest, spoken = [], b"", False
    for message in messages:
        digest = sha256(digest + json.dumps(message, sort_keys=True).encode()).digest()
        spoken = spoken or (isinstance(message, Mapping) and message.get("role") not in ("system", "developer"))
        if spoken:
            names.append(digest.hex())
    return names


def tool_ran(messages: Sequence[Any]) -> str | None:
    """The tool whose result a request carries: the last assistant message's first call, if results follow it."""
    for message in reversed(messages):
        if not isinstance(message, Mapping) or message.get("role") != "assistant":
            continue
        if message is messages[-1]:
            return None
        for call in message.get("tool_calls") or ():
            if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
                return str(call["function"].get("name"))
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, Mapping) and part.get("type") == "tool_use":
                return str(part.get("name"))
        return None
    return None


class Proxy:
    """An ASGI app that passes everything on to `upstream` (a base URL), streams included."""

    def __init__(self, upstream: str, dialect: Dialect, client: httpx.AsyncClient | None = None) -> None:
        self.conversations = Conversations(dialect)
        self._client = client or httpx.AsyncClient(base_url=upstream, timeout=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in _HOP | {b"host", b"content-length"}]
        job = None
        if scope["method"] == "POST" and scope["path"].endswith(ROUTES):
            job, body = self._said(body, dict(headers).get(b"x-session-id"))
        if job and (named := job.headers()):
            headers = [(k, v) for k, v in headers if k.lower() != b"x-session-id"]
            headers += [(k.encode(), v.encode()) for k, v in named.items()]
        try:
            await self._pass_on(scope, headers, body, send)
        finally:
            if job:
                self.conversations.done(job)

    def _said(self, body: bytes, session: bytes | None) -> tuple[Job | None, bytes]:
        """The job of a request, and its body with the fields; a body that is no request's stays as it is."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return None, body
        if not isinstance(request, dict) or "job_id" in request or "job_id" in (request.get("vllm_xargs") or {}):
            return None, body  # who speaks for himself is not spoken for
        messages = request.get("messages") or request.get("input") or request.get("prompt") or ()
        messages = messages if isinstance(messages, list) else [messages]
        job = self.conversations.take(session.decode("latin-1") if session else None, messages)
        job.ran = tool_ran(messages)
        return job, json.dumps(job.body(request)).encode()

    async def _pass_on(self, scope: Scope, headers: list[tuple[bytes, bytes]], body: bytes, send: Send) -> None:
        url = httpx.URL(path=scope["path"], query=scope.get("query_string", b""))
        request = self._client.build_request(scope["method"], url, headers=headers, content=body)
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            text = json.dumps({"error": {"message": f"the server did not answer: {error}", "type": "proxy"}}).encode()
            kind = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 502, "headers": kind})
            await send({"type": "http.response.body", "body": text})
            return
        try:
            passed = [(k, v) for k, v in answer.headers.raw if k.lower() not in _HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": passed})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def main() -> None:
    """Run the proxy with uvicorn, which vLLM brings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="base URL of an OpenAI-compatible server")
    parser.add_argument("--dialect", choices=get_args(Dialect), default="agentcache")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    given = parser.parse_args()
    import uvicorn

    uvicorn.run(Proxy(given.upstream, given.dialect), host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
