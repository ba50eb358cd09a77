"""Requests without a plan: whose they are, how long, and where their contexts are believed to be."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentcache.service.routing.guests import Guests


def asked(**body: Any) -> list[Any]:
    return [SimpleNamespace(model="m", **body), {"headers": {}}]


def test_a_session_is_known_by_its_name() -> None:
    async def work() -> None:
        guests = Guests()
        first = guests.plan(asked(prompt="once upon a time"), "s")
        assert first is not None and (first.job, first.home, first.resident) == ("s", None, {})
        first.replica = "a"
        guests.sent(first, 0.0)
        then = guests.plan(asked(prompt="quite another prompt"), "s")
        assert then is not None and (then.home, then.resident) == ("a", {"a": first.tokens})

    asyncio.run(work())


def test_a_conversation_is_known_by_its_messages() -> None:
    async def work() -> None:
        guests, messages = Guests(), [{"role": "user", "content": "hello"}]
        first = guests.plan(asked(messages=messages), "")
        assert first is not None
        first.replica = "a"
        guests.sent(first, 0.0)
        answer = {"role": "assistant", "content": "hi", "refusal": None}
        then = guests.plan(asked(messages=[*messages, answer, {"role": "user", "content": "and?"}]), "")
        other = guests.plan(asked(messages=[{"role": "user", "content": "bye"}]), "")
        assert then is not None and (then.job, then.home) == (first.job, "a") and then.tokens > first.tokens
        assert other is not None and other.job != first.job and other.home is None

    asyncio.run(work())


@pytest.mark.parametrize("messages", [[{"role": "user", "content": "x"}], [object()], "x", None])
def test_any_body_has_a_plan(messages: Any) -> None:
    assert Guests().plan(asked(messages=messages), "") is not None


def test_what_is_no_prompt_has_none() -> None:
    assert Guests().plan([], "s") is None
    assert Guests().plan([{"headers": {}}], "s") is None
