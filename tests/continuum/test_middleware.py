"""Top-level fields reach the engine as extra arguments, whatever they hold; every other byte stays."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.launch.command_line import middlewares
from agentcache_continuum.fields import FIELDS
from agentcache_continuum.middleware import ContinuumFields, rewrite


def moved(**request: Any) -> Any:
    return json.loads(rewrite(json.dumps(request).encode()))


def test_the_server_adds_it() -> None:
    assert "agentcache_continuum.middleware.ContinuumFields" in middlewares()


def test_the_preview_s_fields_become_extra_arguments() -> None:
    fields = {"job_id": "j", "last_func_call": None, "this_func_call": "ls", "is_last_step": False}
    assert moved(model="m", prompt="p", **fields) == {
        "model": "m",
        "prompt": "p",
        "vllm_xargs": {"job_id": "j", "this_func_call": "ls", "is_last_step": 0},
    }


def test_what_the_client_wrote_into_extra_arguments_wins() -> None:
    both = moved(job_id="top", is_last_step=True, vllm_xargs={"job_id": "inner", "temperature": 3})
    assert both == {"vllm_xargs": {"job_id": "inner", "temperature": 3, "is_last_step": 1}}


@pytest.mark.parametrize(
    ("field", "value", "travels_as"),
    [
        ("job_id", 17, "17"),
        ("job_id", "x" * 10_000_000, "x" * 257),
        ("job_id", {"a": [1]}, ""),
        ("job_id", [1], ""),
        ("job_id", True, ""),
        ("job_id", 10**400, ""),
        ("this_func_call", 1.5, ""),
        ("is_last_step", "yes", "yes"),
        ("is_last_step", 2, "2"),
        ("is_last_step", None, None),
        ("is_last_step", {"a": 1}, "{'a': 1}"),
    ],
)
def test_whatever_a_field_holds_the_request_can_be_served(field: str, value: Any, travels_as: Any) -> None:
    expected = {} if travels_as is None else {field: travels_as}
    assert moved(**{field: value})["vllm_xargs"] == expected
    assert moved(vllm_xargs={field: value})["vllm_xargs"] == expected


@given(st.binary(max_size=40), st.sampled_from(FIELDS))
def test_bytes_that_are_no_such_request_are_left_alone(junk: bytes, field: str) -> None:
    assert rewrite(b"{" + junk) == b"{" + junk or field
    assert rewrite(b'["' + field.encode() + b'"]') == b'["' + field.encode() + b'"]'
    assert rewrite(b'{"a": 1}  ') == b'{"a": 1}  '
    assert rewrite(b'{"job_id": "x", ' + b"[" * 100_000) == b'{"job_id": "x", ' + b"[" * 100_000


def run(parts: list[dict[str, Any]], **scope: Any) -> SimpleNamespace:
    """Send messages through the middleware to an app that reads until it has a whole body, or the client has gone."""
    seen = SimpleNamespace(body=b"", messages=[], scope={})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.scope = scope
        while True:
            message = await receive()
            seen.messages.append(message["type"])
            seen.body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None: ...

    whole = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], **scope}
    asyncio.run(ContinuumFields(app)(whole, receive, send))
    return seen


def test_a_body_in_parts_is_rewritten_and_its_length_told() -> None:
    parts = [
        {"type": "http.request", "body": b'{"job_id": ', "more_body": True},
        {"type": "http.request", "body": b'"j"}', "more_body": False},
    ]
    seen = run(parts, headers=[(b"content-length", b"15"), (b"x", b"y")])
    assert json.loads(seen.body) == {"vllm_xargs": {"job_id": "j"}}
    assert seen.scope["headers"] == [(b"content-length", str(len(seen.body)).encode()), (b"x", b"y")]


def test_other_routes_and_clients_that_leave_pass_through() -> None:
    body = b'{"job_id": "j"}'
    assert run([{"type": "http.request", "body": body}], path="/v1/embeddings").body == body
    assert run([{"type": "http.request", "body": body}], method="GET").body == body
    left = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert run(left).messages == ["http.disconnect"]
