"""How readers of other formats make calls and heads: with the record that a writer of `agentkv-trace/1` needs."""

from collections.abc import Iterator, Sequence
from typing import Any

from agentcache_workloads.readers.trace import SCHEMA, Call, Meta, Parent, Session


def make_call(
    sid: str,
    turn: int,
    *,
    after: int | None,
    delay_s: float,
    delay_kind: str,
    in_tok: int,
    out_tok: int,
    enc: str,
    items: tuple[Any, ...],
    tools: Sequence[str] = (),
    stop: str | None = None,
    spawn: Sequence[str] = (),
    **more: Any,
) -> Call:
    """A call and its record; `more` are further fields of the record. An output that calls a tool stops for it."""
    stop = stop or ("tool_use" if tools else "end_turn")
    record: dict[str, Any] = {
        "kind": "call",
        "sid": sid,
        "turn": turn,
        "after": after,
        "delay_s": delay_s,
        "delay_kind": delay_kind,
        "in_tok": in_tok,
        "out_tok": out_tok,
        "stop": stop,
        "tools": [{"name": name} for name in tools],
        **more,
    }
    rec = more.get("rec") or {}
    return Call(
        turn,
        after,
        delay_s,
        delay_kind,
        in_tok,
        out_tok,
        enc,
        items,
        stop,
        tuple(tools),
        tuple(spawn),
        rec.get("t_s"),
        rec.get("api_s"),
        record,
    )


def make_session(
    sid: str, calls: Sequence[Call], parent: Parent | None = None, arrival_s: float | None = None, **more: Any
) -> Session:
    """A session and its record."""
    above = {"sid": parent.sid, "turn": parent.turn, "offset_s": parent.offset_s} if parent else None
    record = {"kind": "session", "sid": sid, "arrival_s": arrival_s, "parent": above, **more}
    return Session(sid, parent, arrival_s, None, tuple(calls), record)


def make_trace(
    name: str, sessions: Sequence[Session], block_size: int | None, source: str, notes: str
) -> tuple[Meta, Iterator[Session]]:
    """The head of these sessions, and they."""
    calls = sum(len(session.calls) for session in sessions)
    record = {
        "kind": "meta",
        "schema": SCHEMA,
        "name": name,
        "split": "converted",
        "n_sessions": len(sessions),
        "n_calls": calls,
        "source": {"format": source},
        "block_size": block_size,
        "hash_scope": "trace",
        "tail_hashed": False,
        "notes": notes,
    }
    return Meta(name, "converted", len(sessions), calls, block_size, "trace", False, record), iter(sessions)
