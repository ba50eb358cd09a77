"""The HTTP calls of both clients, without a connection: what is sent, and what an answer means."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import msgspec

from agentcache.api.messages import Action
from agentcache.errors import EngineError, InputError

PREFIX = "/agentcache/v1"
CHAT = "/v1/chat/completions"
UNANSWERED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""What httpx raises where a connection ends before an answer: kept alive, it was closed as it was used again.

Nobody has read anything of an answer, so the call may be sent once more.
"""
Request = dict[str, Any]
"""The arguments of `httpx.Client.request`."""
T = TypeVar("T")


def of_action(action: Action) -> Request:
    """The request that states an action.

    One without a request id gets one, so that it may be sent twice.
    """
    body = {name: value for name, value in msgspec.to_builtins(action).items() if value is not None}
    return {"method": "POST", "url": f"{PREFIX}/actions", "json": {"request_id": uuid4().hex, **body}}


def of_view(name: str, **params: str | int) -> Request:
    """The request for what the service knows."""
    return {"method": "GET", "url": f"{PREFIX}/{name}", "params": params}


def of_stream(body: Mapping[str, Any]) -> Request:
    """The request for a turn whose answer comes in chunks."""
    return {"method": "POST", "url": CHAT, "json": {**body, "stream": True}}


def of_chat(
    job: str, messages: Sequence[Mapping[str, Any]], model: str, tool: str | None, last: bool | None, **body: Any
) -> dict[str, Any]:
    """The body of a turn of a job: OpenAI's, with what the engine may know in `vllm_xargs`.

    `tool` has run since the turn before; `last` says whether this is the job's last turn.
    """
    said: dict[str, Any] = {"job_id": job, "session_id": job}
    if tool is not None:
        said["last_func_call"] = tool
    if last is not None:
        said["is_last_step"] = int(last)
    return {"model": model, "messages": list(messages), **body, "vllm_xargs": said | body.get("vllm_xargs", {})}


def read(response: httpx.Response, kind: type[T]) -> T:
    """The answer as a message. Raises `InputError` for what the service refuses, `EngineError` for what it cannot."""
    check(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.ValidationError as error:
        raise EngineError(f"{response.request.url} answered something else than {kind.__name__}: {error}") from error


def check(response: httpx.Response) -> None:
    """Raise for an answer that is an error; its body must have been read."""
    if response.status_code < 400:
        return
    try:
        told = msgspec.json.decode(response.content)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        told = response.text[:200]
    sentence = f"{response.request.method} {response.request.url.path} answered {response.status_code}: {told}"
    kind = EngineError if response.status_code >= 500 or response.status_code == 429 else InputError
    raise kind(sentence)


def unanswered(request: Request, error: httpx.TransportError) -> EngineError:
    """What is raised where no answer came."""
    failed = EngineError(f"{request['method']} {request['url']} was not answered: {error!r}")
    failed.__cause__ = error
    return failed


@contextmanager
def unbroken() -> Iterator[None]:
    """Raises `EngineError` where the connection of a stream ends before the stream does."""
    try:
        yield
    except httpx.TransportError as error:
        raise EngineError(f"the stream broke: {error!r}") from error


def event(line: str) -> dict[str, Any] | None:
    """One line of a server-sent stream: its chunk, or None. Raises `EngineError` for a stream that broke."""
    if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
        return None
    chunk: dict[str, Any] = msgspec.json.decode(data)
    if error := chunk.get("error"):
        raise EngineError(f"the stream broke: {error.get('message', error)}")
    return chunk


def headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
