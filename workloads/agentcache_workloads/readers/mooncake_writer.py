"""Writer of Mooncake JSON lines with `session_id` and `delay`: what other replayers read.

`{session_id, timestamp, input_length, output_length, hash_ids}`, the follow-ups with `delay` and without `timestamp`;
milliseconds. Ids are the trace's own, of its own block size, with one for what is left behind the last whole block.
The format has no branches and no sub-agents: a branch becomes a chain, a sub-agent a session without a parent.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentcache.errors import InputError
from agentcache_workloads.readers.mooncake import WHOLE
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.readers.writer import write_lines

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
        for call in session.calls:
            lost.calls += 1
            lost.branches += call.after is not None and call.after != call.turn - 1
            ids = list(call.items or ())[: call.in_tok // size]
            if call.in_tok > len(ids) * size:
                ids.append(rest)
                rest += 1
            line = {"session_id": session.sid, "input_length": call.in_tok, "output_length": max(call.out_tok, 1)}
            if call.turn == 0 and session.arrival_s is not None:
                line["timestamp"] = _ms(session.arrival_s)
            elif call.turn and call.delay_s is not None:
                line["delay"] = _ms(call.delay_s)
            elif call.turn and session.arrival_s is not None and call.t_s is not None:
                line["timestamp"] = _ms(session.arrival_s + call.t_s)
            lost.unknown_pauses += bool(call.turn) and call.delay_s is None
            yield json.dumps({**line, **more, "hash_ids": ids}, separators=(",", ":")) + "\n"


def _ms(seconds: float) -> float:
    """Milliseconds, whole where they are."""
    value = round(seconds * 1000, 3)
    return int(value) if value == int(value) else value
