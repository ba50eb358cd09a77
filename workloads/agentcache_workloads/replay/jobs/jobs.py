"""Jobs of a trace as dependency graphs: which calls must be complete before a turn, and how long it then pauses."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Session, TraceCall

Kind = Literal["first", "after_tool", "after_user"]


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """One call of a job, at position `index` of the job's order.

    It may be sent `pause_s` trace seconds (capped, not scaled) after all turns at the positions `after` are complete.
    `context` is its agent branch (the session's id), `kind` what it follows there, `follows` and `followed_by` the
    positions of the branch's previous and next turn, None at its ends.
    """

    id: str
    index: int
    context: str
    call: TraceCall
    after: tuple[int, ...]
    pause_s: float
    kind: Kind
    follows: int | None
    followed_by: int | None


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A root session and its sub-agents' sessions. `turns` are ordered so that each stands behind what it needs.

    `arrival_s`: when the source says that it arrived, in trace seconds.
    """

    id: str
    turns: tuple[PlannedTurn, ...]
    arrival_s: float | None = None


def build_job(
    root: Session,
    sessions: Mapping[str, Session],
    *,
    max_calls: int | None = None,
    max_ctx: int | None = None,
    max_pause_s: float = 600.0,
) -> PlannedJob:
    """Put a root session and its sub-agents into one order, cut it, and resolve its pauses.

    The order is the root's turns, with each sub-agent's turns directly behind the call that starts it. The job is cut
    before its first call of more than `max_ctx` prompt tokens, then after `max_calls` calls: since nothing depends on
    what stands behind it, every cut is a whole job. A sub-agent starts its `offset_s` after its parent's call is
    complete. The call behind the starting one waits for the sub-agents and then pauses for what is left of its
    recorded pause: `max(0, delay_s - last recorded end of a sub-agent)`, both counted from the starting call's end.
    Pauses are capped at `max_pause_s`. Raises `InputError` for a sub-agent that the trace does not hold and for a
    pause that it did not record.
    """
    order = list(_order(root, sessions, frozenset()))
    if max_ctx is not None:
        order = order[: next((i for i, (_, call) in enumerate(order) if call.in_tok > max_ctx), None)]
    order = order[:max_calls]
    positions = {(session.sid, call.turn): index for index, (session, call) in enumerate(order)}
    follows = {i: positions[s.sid, c.after] for i, (s, c) in enumerate(order) if c.after is not None}
    followed_by: dict[int, int] = {}
    for index, before in follows.items():
        followed_by.setdefault(before, index)

    turns = []
    for index, (session, call) in enumerate(order):
        after, pause_s = _start(session, call, sessions, positions)
        turns.append(
            PlannedTurn(
                id=f"{session.sid}/{call.turn}",
                index=index,
                context=session.sid,
                call=call,
                after=after,
                pause_s=min(pause_s, max_pause_s),
                kind=_kind(session, call),
                follows=follows.get(index),
                followed_by=followed_by.get(index),
            )
        )
    return PlannedJob(root.sid, tuple(turns), root.arrival_s)


def shuffled(jobs: Sequence[PlannedJob], seed: int) -> list[PlannedJob]:
    """The jobs in a seed's order, as every engine takes them."""
    order = list(jobs)
    random.Random(seed).shuffle(order)
    return order


def _order(session: Session, sessions: Mapping[str, Session], above: frozenset[str]) -> list[tuple[Session, TraceCall]]:
    """The turns of a session in order, each with those of the sub-agents that it starts behind it."""
    order = []
    for call in session.calls:
        order.append((session, call))
        for sid in call.spawn:
            child = sessions.get(sid)
            if (
                child is None
                or child.parent is None
                or (child.parent.sid, child.parent.turn) != (session.sid, call.turn)
            ):
                raise InputError(
                    f"turn {call.turn} of session {session.sid!r} starts {sid!r}, which the trace does not hold as its "
                    "sub-agent; nothing was replayed",
                    hint="cut traces with their sub-agents, or drop `spawn`",
                )
            if sid in above:
                raise InputError(f"session {sid!r} starts itself; nothing was replayed")
            order += _order(child, sessions, above | {session.sid})
    return order


def _start(
    session: Session, call: TraceCall, sessions: Mapping[str, Session], positions: Mapping[tuple[str, int], int]
) -> tuple[tuple[int, ...], float]:
    """What a turn waits for, as positions, and its pause in trace seconds after the last of them."""
    if call.after is None:
        if session.parent is None:
            return (), 0.0
        return (positions[session.parent.sid, session.parent.turn],), session.parent.offset_s
    if call.delay_s is None:
        raise InputError(
            f"turn {call.turn} of session {session.sid!r} has no recorded pause; nothing was replayed",
            hint="--pauses takes them from start-to-start times (cycle:S), or draws them (const:S, ...)",
        )
    before = positions[session.sid, call.after]
    children = [sessions[sid] for sid in session.calls[call.after].spawn if sessions[sid].calls]
    if not children or call.after != call.turn - 1:
        return (before,), call.delay_s
    ends = tuple(positions[child.sid, len(child.calls) - 1] for child in children)
    last_end_s = max(child.parent.offset_s + child.span_s for child in children if child.parent)
    return (before, *ends), max(0.0, call.delay_s - last_end_s)


def _kind(session: Session, call: TraceCall) -> Kind:
    """What the turn follows. Where the source is not sure, the end of the turn before decides."""
    if call.after is None:
        return "first"
    if call.delay_kind in ("tool", "subagent"):
        return "after_tool"
    if call.delay_kind in ("user", "user_inferred"):
        return "after_user"
    return "after_user" if session.calls[call.after].stop == "end_turn" else "after_tool"
