"""Makes the typed parts of a trace together with their records, so that what was read or generated can be written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentcache_workloads.readers.trace import SCHEMA, Meta, Parent, Session, TraceCall


def make_meta(
    name: str,
    n_sessions: int,
    n_calls: int,
    block_size: int | None,
    source: dict[str, Any],
    *,
    split: str = "",
    tail_hashed: bool = False,
    arrival: str = "none: synthesise",
    **more: Any,
) -> Meta:
    """A head. `source` says where the trace comes from, `more` are further fields of its line."""
    record = {
        "kind": "meta",
        "schema": SCHEMA,
        "name": name,
        "split": split,
        "n_sessions": n_sessions,
        "n_calls": n_calls,
        "source": source,
        "block_size": block_size,
        "hash_scope": "trace",
        "tail_hashed": tail_hashed,
        "arrival": arrival,
        **more,
    }
    return Meta(name, split, n_sessions, n_calls, block_size, "trace", tail_hashed, record)


def make_trace(
    name: str, sessions: Sequence[Session], block_size: int | None, form: str, **more: Any
) -> tuple[Meta, Iterator[Session]]:
    """The head of sessions that were all read from a file of the format `form`, and they."""
    calls = sum(len(session.calls) for session in sessions)
    return make_meta(name, len(sessions), calls, block_size, {"format": form}, **more), iter(sessions)


def make_session(
    sid: str,
    calls: Sequence[TraceCall],
    *,
    agent: str,
    parent: Parent | None = None,
    arrival_s: float | None = None,
    recorded_dur_s: float | None = None,
    **more: Any,
) -> Session:
    """A session of these calls."""
    record = {"kind": "session", "sid": sid, "arrival_s": arrival_s, "agent": agent, "parent": None, **more}
    if recorded_dur_s is not None:
        record["recorded_dur_s"] = recorded_dur_s
    return Session(sid, parent, arrival_s, recorded_dur_s, tuple(calls), record)


def make_call(
    turn: int,
    *,
    in_tok: int,
    out_tok: int,
    items: tuple[Any, ...] | str | None = None,
    enc: str = "blocks",
    after: int | None = None,
    delay_s: float | None = None,
    kind: str = "unknown",
    stop: str = "unknown",
    tools: tuple[str, ...] = (),
    spawn: tuple[str, ...] = (),
    t_s: float | None = None,
    api_s: float | None = None,
    rec: Mapping[str, Any] | None = None,
    **more: Any,
) -> TraceCall:
    """A call; `kind` is its `delay_kind`, `rec` what else was recorded of it, `more` are further fields of its line."""
    record: dict[str, Any] = {"kind": "call", "delay_kind": kind, "stop": stop, **more}
    if tools:
        record["tools"] = [{"name": name} for name in tools]
    times = {name: value for name, value in (("t_s", t_s), ("api_s", api_s)) if value is not None}
    if recorded := {**times, **(rec or {})}:
        record["rec"] = recorded
    return TraceCall(turn, after, delay_s, kind, in_tok, out_tok, enc, items, stop, tools, spawn, t_s, api_s, record)


class Chains:
    """Small numbers for blocks and all that stands before them, from ids that name a block's content alone.

    A prefix cache reuses a block only behind the same blocks, so equal content at another place is another id.
    """

    def __init__(self, first: int = 1) -> None:
        self.next = first
        self._numbers: dict[tuple[Any, Any], int] = {}

    def __call__(self, ids: tuple[Any, ...], root: Any = None) -> tuple[int, ...]:
        """The chained ids of a prompt; `root` keeps apart what never shares, as two models do."""
        numbers = self._numbers
        before: Any = root
        chained = []
        for block in ids:
            number = numbers.get((before, block))
            if number is None:
                number = numbers[before, block] = self.next
                self.next += 1
            chained.append(number)
            before = number
        return tuple(chained)
