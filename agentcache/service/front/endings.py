"""How a stream that broke ends: in the words of its API, so that its clients raise instead of taking half for whole."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

_CREATED = re.compile(rb"^data: (.*)$", re.MULTILINE)
_NUMBER = re.compile(rb'"sequence_number":\s*(\d+)')


def is_stream(headers: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether an answer is server-sent events: to nothing else can a last word be added."""
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def last_words(path: str, first: bytes, latest: bytes, message: str) -> bytes | None:
    """The events that end a broken stream of the API at `path`; None where it broke within an event.

    `first` and `latest` are pieces that were sent. What stands half there cannot be ended by words, only by no end.
    """
    if latest and not latest.endswith((b"\n\n", b"\r\n\r\n")):
        return None
    return _DIALECTS.get(path, _completions)(first, latest, message)


def _completions(first: bytes, latest: bytes, message: str) -> bytes:
    error = {"message": message, "type": "service_unavailable", "param": None, "code": 503}
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


def _messages(first: bytes, latest: bytes, message: str) -> bytes:
    return _event("error", {"error": {"type": "api_error", "message": message}})


def _responses(first: bytes, latest: bytes, message: str) -> bytes:
    # `response.failed` is for those who follow the response; OpenAI's own client raises for an `error` only.
    error = {"code": "server_error", "message": message}
    number = max(map(int, _NUMBER.findall(latest)), default=0)
    failed = {"sequence_number": number + 1, "response": _begun(first) | {"status": "failed", "error": error}}
    told = error | {"sequence_number": number + 2, "param": None, "error": error | {"type": "server_error"}}
    return _event("response.failed", failed) + _event("error", told)


def _begun(first: bytes) -> dict[str, Any]:
    """The response as its first event showed it."""
    try:
        created = _CREATED.search(first)
        response = msgspec.json.decode(created[1], type=dict)["response"] if created else {}
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError):
        response = {}
    return response if isinstance(response, dict) else {}


def _event(kind: str, body: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode({"type": kind, **body}) + b"\n\n"


_DIALECTS: dict[str, Callable[[bytes, bytes, str], bytes]] = {
    "/v1/messages": _messages,
    "/v1/responses": _responses,
}
"""By path; all others speak as OpenAI's completions do."""
