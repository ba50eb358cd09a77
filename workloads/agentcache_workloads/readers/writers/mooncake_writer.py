"""Writer of Mooncake JSON lines with `session_id` and `delay`: what other replayers read.

`{session_id, timestamp, input_length, output_length, hash_ids}`, the follow-ups with `delay` and without `timestamp`;
milliseconds. Ids are the trace's own, of its own block size, with one for what is left behind the last whole block.
The format has no branches and no sub-agents: a branch becomes a chain, a sub-agent a session without a parent.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentcache.errors import InputError
from agentcache_workloads.readers.formats.mooncake import WHOLE
from agentcache_workloads.readers.trace import Meta, Session, TraceCall
from agentcache_workloads.readers.writers.agentkv_writer import write_lines

FIRST_REST = 1 << 40
"""Ids of what is left behind whole blocks: nothing else has an id so high."""


@dataclass(slots=True)
class Lost:
    """What was written, and what the format cannot say."""

    sessions: int = 0
    calls: int = 0
    branches: int = 0
    parents: int = 0
    unknown_pauses: int = 0


def write_mooncake(path: str | Path, meta: Meta, sessions: Iterable[Session], context_mode: bool = False) -> Lost:
    """Write a trace with block ids. `context_mode`: each line says, in aiperf's words, that its prompt is whole.

    Raises `InputError` for a trace without block ids, and when the folder cannot be written.
    """
    if meta.block_size is None:
        raise InputError("a trace without block ids cannot be written as mooncake; nothing was written")
    lost = Lost()
    write_lines(Path(path), _lines(meta.block_size, sessions, lost, {"context_mode": WHOLE} if context_mode else {}))
    return lost


def _lines(size: int, sessions: Iterable[Session], lost: Lost, more: dict[str, str]) -> Iterator[str]:
    rest = FIRST_REST
    for session in sessions:
        lost.sessions += 1
        lost.parents += session.parent is not None
        starts: dict[int, float] = {}
        for call in session.calls:
            lost.calls += 1
            lost.branches += call.after is not None and call.after != call.turn - 1
            ids = list(call.items or ())[: call.in_tok // size]
            if call.in_tok > len(ids) * size:
                ids.append(rest)
                rest += 1
            line = {"session_id": session.sid, "input_length": call.in_tok, "output_length": max(call.out_tok, 1)}
            if (start_s := _start_s(session, call, starts)) is not None:
                starts[call.turn] = start_s
            if call.turn and call.delay_s is not None:
                line["delay"] = _ms(call.delay_s)
            elif start_s is not None:
                line["timestamp"] = _ms(start_s)
            lost.unknown_pauses += bool(call.turn) and call.delay_s is None
            yield json.dumps({**line, **more, "hash_ids": ids}, separators=(",", ":")) + "\n"


def _start_s(session: Session, call: TraceCall, starts: Mapping[int, float]) -> float | None:
    """When a call started, as far as the trace says: by itself, or by the time from start to start."""
    if session.arrival_s is None:
        return None
    if call.turn == 0:
        return session.arrival_s
    if call.t_s is not None:
        return session.arrival_s + call.t_s
    before, cycle_s = starts.get(call.after or 0), call.record.get("cycle_s")
    return None if before is None or cycle_s is None else before + float(cycle_s)


def _ms(seconds: float) -> float:
    """Milliseconds, whole where they are."""
    value = round(seconds * 1000, 3)
    return int(value) if value == int(value) else value
