"""Reader of chat logs: JSON lines of OpenAI chat requests, with a time stamp and, if there is one, the response.

A line is the request's body, or has it under `request` or `body`: `{messages, model, max_tokens, tools, ...}`. Beside
it stand `timestamp` (also `ts`, `time`, `created_at`: seconds or milliseconds since 1970, or ISO 8601), `response` (a
`chat.completion`), `duration_s` (or `latency_s`), and a session as `session_id`, `job_id`, `conversation_id`, or one of
these in `metadata`. Without one, a request follows the latest request whose messages it begins with. Token counts are
the response's `usage`; where there is none they are estimated at four characters a token, and marked so (`tok_est`).
"""

import json
from datetime import datetime
from hashlib import blake2b
from typing import Any

from agentcache_workloads.readers.formats.mooncake import CHARACTERS
from agentcache_workloads.readers.parts.requests import Request, RowReader

SESSIONS = ("session_id", "job_id", "conversation_id")
TIMES = ("timestamp", "ts", "time", "created_at")
DURATIONS = ("duration_s", "latency_s")
STOPS = {"tool_calls": "tool_use", "function_call": "tool_use", "stop": "end_turn", "length": "max_tokens"}
MILLISECONDS = 1e11
"""A time stamp above it is in milliseconds: in seconds it would be in the year 5138."""
UNKNOWN_OUTPUT = 256
"""Tokens of an output of which the log says nothing at all."""


class OpenAIChat(RowReader):
    form = "openai-chat"
    hint = "a line is {timestamp, messages, ...}, or {timestamp, request: {messages, ...}, response: {...}}"
    agent = "chat"
    tail_hashed = False

    def restart(self) -> None:
        self._zero: float | None = None
        self._ends: dict[bytes, str] = {}

    def row(self, record: dict[str, Any]) -> Request:
        body = self._object(record, "request") or self._object(record, "body") or record
        messages = self.objects(body, "messages")
        if not messages:
            self.fail("no messages", "at least one {role, content}", hint=self.hint)
        for message in messages:
            self.get(message, "role", str, "a string")
        response = self._object(record, "response")
        usage = self._object(response, "usage") or self._object(record, "usage")
        choices = self.objects(response, "choices")
        answer = self._object(choices[0], "message") if choices else {}
        finish = self.text(choices[0], "finish_reason") if choices else ""
        tools = tuple(
            self.text(self._object(call, "function"), "name") or "unknown"
            for call in self.objects(answer, "tool_calls")
        )
        in_tok, in_est = self._count(usage, "prompt_tokens", [*messages, *self.objects(body, "tools")])
        out_tok, out_est = self._count(usage, "completion_tokens", [answer] if answer else [])
        if not answer and out_est:
            limit = self.amount(body, "max_completion_tokens", optional=True, whole=True)
            out_tok = limit or self.amount(body, "max_tokens", optional=True, whole=True) or UNKNOWN_OUTPUT
        at_s = self._time(record)
        duration_s = next((d for key in DURATIONS if (d := self.amount(record, key, optional=True)) is not None), None)
        more: dict[str, Any] = {"tok_est": True} if in_est or out_est else {}
        if model := self.text(body, "model"):
            more["model"] = model
        if isinstance(answer.get("content"), str):
            more["output"] = {"text": answer["content"]}
        kind = {"tool": "tool", "function": "tool", "user": "user"}.get(messages[-1]["role"], "tool_or_user")
        return Request(
            in_tok=in_tok,
            out_tok=out_tok,
            enc="msgs",
            items=tuple(messages),
            session=self._session(record, body),
            at_s=at_s,
            end_s=None if at_s is None or duration_s is None else at_s + duration_s,
            stop=STOPS.get(finish, "tool_use" if tools else "unknown"),
            kind=kind,
            tools=tools,
            more=more,
        )

    def session_of(self, row: Request) -> str:
        ends: list[bytes] = []
        digest = b""
        for message in row.items:
            digest = blake2b(digest + json.dumps(message, sort_keys=True).encode(), digest_size=16).digest()
            ends.append(digest)
        found = next((self._ends[end] for end in reversed(ends[:-1]) if end in self._ends), None)
        name = row.session or found or super().session_of(row)
        self._ends[ends[-1]] = name
        return name

    def prompts(self) -> int | None:
        return None

    def _object(self, record: dict[str, Any], key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(record, key, dict, "an object") if record.get(key) is not None else {}
        return found

    def _session(self, record: dict[str, Any], body: dict[str, Any]) -> str | None:
        places = [record, body, self._object(record, "metadata"), self._object(body, "metadata")]
        return next((self.name(place, key) for place in places for key in SESSIONS if place.get(key) is not None), None)

    def _count(self, usage: dict[str, Any], key: str, texts: list[dict[str, Any]]) -> tuple[int, bool]:
        """Tokens, and whether they are estimated."""
        known = self.amount(usage, key, optional=True, whole=True)
        if known:
            return known, False
        return max(sum(len(json.dumps(text)) for text in texts) // CHARACTERS, 1), True

    def _time(self, record: dict[str, Any]) -> float | None:
        """Seconds since the first line's time."""
        key = next((key for key in TIMES if record.get(key) is not None), None)
        if key is None:
            return None
        value = record[key]
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value).timestamp()
            except (ValueError, OverflowError, OSError):
                self.fail(f"{key} is {value[:80]!r}", "a number or ISO 8601")
        else:
            value = float(self.amount(record, key))
        if value > MILLISECONDS:
            value /= 1000
        if self._zero is None:
            self._zero = value
        if value < self._zero:
            self.fail(f"a time {self._zero - value:g} s before the first line's", "the order of time")
        return round(value - self._zero, 6)
