"""SWE-smith records with the execution times of their tools, as forks of Continuum replay them: read and written."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agentcache.errors import InputError
from agentcache.files import whole
from agentcache_workloads.readers.parts.build import make_call, make_session, make_trace
from agentcache_workloads.readers.trace import Meta, Session, TraceCall

CHARACTERS = 4  # a token
_NOTES = "Token counts are estimated at four characters a token. A pause is that of the slowest tool of a message."


def read_swe_smith(path: str | Path) -> tuple[Meta, Iterator[Session]]:
    """Read a JSON list of records; every assistant message is a call. Raises `InputError`."""
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as SWE-smith records: {error}; nothing was done") from error
    if not isinstance(records, list):
        raise InputError(f"{path} is no list of records, as SWE-smith's is; nothing was done")
    sessions = []
    for number, record in enumerate(records):
        where = f"{path}, record {number}"
        if not isinstance(record, dict) or "messages" not in record:
            raise InputError(f"{where} has no messages; nothing was done")
        sid = str(record.get("traj_id") or record.get("instance_id") or number)
        calls = list(_calls(where, _messages(where, record["messages"])))
        if calls:
            sessions.append(make_session(sid, calls, agent="swe-smith", instance_id=record.get("instance_id")))
    if len({session.sid for session in sessions}) < len(sessions):
        raise InputError(f"{path} has two records of one traj_id; nothing was done")
    return make_trace(Path(path).stem, sessions, None, "swe-smith", notes=_NOTES)


def _messages(where: str, given: Any) -> list[dict[str, Any]]:
    try:
        messages = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: messages are no JSON: {error}; nothing was done") from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: messages are no list of objects; nothing was done")
    return messages


def _calls(where: str, messages: list[dict[str, Any]]) -> Iterator[TraceCall]:
    turn, pause_s = 0, 0.0
    for position, message in enumerate(messages):
        if message.get("role") != "assistant" or not position:
            continue
        prompt = tuple(messages[:position])
        asked = message.get("tool_calls") or []
        if not isinstance(asked, list) or not all(isinstance(call, dict) for call in asked):
            raise InputError(f"{where}: tool_calls of message {position} are no list of objects; nothing was done")
        tools = tuple(str((call.get("function") or {}).get("name") or "tool") for call in asked)
        after, kind = (turn - 1, "tool") if turn else (None, "start")
        yield make_call(
            turn,
            after=after,
            delay_s=pause_s,
            kind=kind,
            in_tok=max(sum(map(_characters, prompt)) // CHARACTERS, 1),
            out_tok=max(_characters(message) // CHARACTERS, 1),
            enc="msgs",
            items=prompt,
            stop="tool_use" if tools else "end_turn",
            tools=tools,
            tok_est=True,
            answer=message,
        )
        turn += 1
        pause_s = max((_seconds(where, call) for call in asked), default=0.0)


def _characters(message: dict[str, Any]) -> int:
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content) if content else ""
    return len(text) + sum(len(json.dumps(call.get("function"))) for call in message.get("tool_calls") or ())


def _seconds(where: str, call: dict[str, Any]) -> float:
    value = call.get("execution_time_seconds", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where}: execution_time_seconds is {value!r}, expected seconds >= 0; nothing was done")
    return float(value)


def write_swe_smith(path: str | Path, sessions: Iterable[Session]) -> None:
    """Write root sessions with prompts of enc `msgs` as records; what only answers hold is there if a reader kept it.

    Raises `InputError` for another enc.
    """
    records = []
    for session in sessions:
        if session.parent is not None or not session.calls:
            continue
        if any(call.enc != "msgs" or not isinstance(call.items, tuple) for call in session.calls):
            raise InputError(f"session {session.sid!r} has prompts that are no messages; nothing was written")
        records.append(
            {
                "messages": json.dumps(_conversation(session)),
                "instance_id": session.record.get("instance_id") or session.sid,
                "traj_id": session.sid,
                "model": "",
                "resolved": None,
                "patch": "",
            }
        )
    try:
        with whole(path) as file:
            file.write(json.dumps(records).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; nothing was written") from error


def _conversation(session: Session) -> list[Any]:
    """The last prompt and its answer, with the pause after each answer as its tools' time."""
    last = session.calls[-1]
    messages = [dict(message) for message in last.items or () if isinstance(message, dict)]
    messages.append(dict(last.record.get("answer") or {"role": "assistant", "content": ""}))
    for call, later in zip(session.calls, session.calls[1:], strict=False):
        answer = messages[len(call.items or ())]
        asked = answer.get("tool_calls") or [{"function": {"name": name, "arguments": "{}"}} for name in call.tools]
        answer["tool_calls"] = [{**one, "execution_time_seconds": later.delay_s or 0.0} for one in asked]
    return messages
