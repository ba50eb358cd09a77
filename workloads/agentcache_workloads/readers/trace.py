"""An agent trace as types: what was asked for, when, and what had to be complete before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = "agentkv-trace/1"


@dataclass(frozen=True, slots=True)
class Meta:
    """The head of a trace. `block_size` is in tokens per block id, None where the trace has no ids.

    `hash_scope` is `trace` (ids are comparable everywhere in it) or `session`. `tail_hashed`: the last, partial block
    of a prompt has an id too. `record` is the line as read, for those who write a trace again.
    """

    name: str
    split: str
    n_sessions: int
    n_calls: int
    block_size: int | None
    hash_scope: str
    tail_hashed: bool
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a sub-agent came from: it started `offset_s` seconds after call `turn` of session `sid` was complete."""

    sid: str
    turn: int
    offset_s: float


@dataclass(frozen=True, slots=True)
class TraceCall:
    """One LLM request.

    It is sent `delay_s` seconds after call `after` of its session is complete (None: it has no predecessor, or the
    source does not know the pause). `items` is the full prompt: block ids or token ids (int), messages (dict), or a
    string, as `enc` says; None for `len`. `spawn` names the sub-agents' sessions that its output starts. `api_s` is
    the recorded service time in seconds, `t_s` the recorded start within the session.
    """

    turn: int
    after: int | None
    delay_s: float | None
    delay_kind: str
    in_tok: int
    out_tok: int
    enc: str
    items: tuple[Any, ...] | str | None
    stop: str
    tools: tuple[str, ...]
    spawn: tuple[str, ...]
    t_s: float | None
    api_s: float | None
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """One agent branch: its calls in turn order. A root session (`parent` None) is a job."""

    sid: str
    parent: Parent | None
    arrival_s: float | None
    recorded_dur_s: float | None
    calls: tuple[TraceCall, ...]
    record: Mapping[str, Any]

    @property
    def span_s(self) -> float:
        """Recorded seconds from its first call's start to its last one's end; 0 where nothing was recorded."""
        if self.recorded_dur_s is not None:
            return self.recorded_dur_s
        return max(((call.t_s or 0.0) + (call.api_s or 0.0) for call in self.calls), default=0.0)
