"""Cuts a trace: fewer sessions, fewer calls, small ids; the structure that is left is the source's own."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentcache.errors import InputError
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.trace import Meta, Parent, Session, TraceCall


def sha_order(sid: str) -> bytes:
    """The order in which sessions are taken: that of the SHA-256 of their ids, the same everywhere."""
    return sha256(sid.encode()).digest()


def cut_trace(path: str | Path, **limits: Any) -> tuple[Meta, list[Session]]:
    """`cut_sessions` of a file in the project's own format."""
    return cut_sessions(lambda: read_trace(path), str(path), **limits)


def cut_sessions(
    opened: Callable[[], tuple[Meta, Iterator[Session]]],
    path: str,
    *,
    sessions: int,
    max_calls: int,
    min_calls: int = 1,
    always: Sequence[str] = (),
    note: str = "",
) -> tuple[Meta, list[Session]]:
    """Take `sessions` root sessions of at least `min_calls` calls, in SHA-256 order, `max_calls` calls of each.

    Those named in `always` come first, and count. A sub-agent whose parent call is kept is kept, cut alike. Block ids
    are numbered anew in order of appearance: a bijection, so that every shared prefix stays shared. `note` goes into
    the head as `cut`. `opened` opens the trace: it is read twice. Raises `InputError` when it has fewer such sessions.
    """
    parents: dict[str, Parent | None] = {}
    roots: dict[str, int] = {}
    for session in opened()[1]:
        parents[session.sid] = session.parent
        if session.parent is None:
            roots[session.sid] = len(session.calls)
    chosen = _chosen(path, roots, sessions, min_calls, always)

    def kept(sid: str) -> bool:
        parent = parents.get(sid)
        return sid in chosen if parent is None else parent.turn < max_calls and kept(parent.sid)

    meta, stream = opened()
    ids: dict[int, int] = {}
    result = []
    for session in stream:
        if kept(session.sid):
            calls = tuple(
                dataclasses.replace(
                    call,
                    items=_renumbered(call, ids),
                    spawn=tuple(sid for sid in call.spawn if sid in parents),
                )
                for call in session.calls[:max_calls]
            )
            result.append(dataclasses.replace(session, calls=calls))
    record = {**meta.record, "cut": note} if note else meta.record
    n_calls = sum(len(session.calls) for session in result)
    return dataclasses.replace(meta, n_sessions=len(result), n_calls=n_calls, record=record), result


def _chosen(path: str, roots: Mapping[str, int], sessions: int, min_calls: int, always: Sequence[str]) -> Set[str]:
    """The ids of the root sessions that are taken; `roots`: how many calls each has."""
    if missing := [sid for sid in always if sid not in roots]:
        raise InputError(f"trace {path} has no root session {', '.join(missing)}; nothing was cut")
    rest = sorted((sid for sid, n in roots.items() if n >= min_calls and sid not in always), key=sha_order)
    chosen = {*always, *rest[: max(sessions - len(always), 0)]}
    if len(chosen) < sessions:
        raise InputError(
            f"trace {path} has {len(chosen)} sessions of at least {min_calls} calls, expected {sessions}; "
            "nothing was cut",
            hint="ask for fewer sessions or shorter ones",
        )
    return chosen


def _renumbered(call: TraceCall, ids: dict[int, int]) -> tuple[Any, ...] | str | None:
    if call.enc != "blocks" or not isinstance(call.items, tuple):
        return call.items
    return tuple(ids.setdefault(old, len(ids) + 1) for old in call.items)
