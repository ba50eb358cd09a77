"""What one run tells: its calls and jobs as they went, and the messages of the process that made it."""

from typing import Any

import msgspec

IDLE_TOTAL = "agentcache_idle_retained_token_seconds_total"
"""A server's counter of token-seconds that were kept for paused contexts."""


class CallRecord(msgspec.Struct):
    """One call as it went. Seconds since the run's start; None: the engine does not say, or it did not get there.

    `arrived_s`: when it was due. `sent_s`: when the replayer sent it first. `gaps_s`: between its tokens.
    `cached_known`: whether the engine said how much it found. Of the cached tokens, `loaded_tokens` came from host
    memory, for which the call waited `load_s`.
    """

    turn: str
    kind: str
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float | None = None
    finished_s: float | None = None
    queue_s: float | None = None
    cached_tokens: int = 0
    cached_after_hole: int | None = None
    holes: int | None = None
    preemptions: int | None = None
    error: str | None = None
    held_s: float | None = None
    saved_s: float | None = None
    sent_s: float | None = None
    retries: int = 0
    gaps_s: list[float] = []
    cached_known: bool = True
    loaded_tokens: int = 0
    load_s: float = 0.0


class JobRecord(msgspec.Struct, frozen=True):
    """One complete job. `paused_s`: pauses (scaled) on the chain of turns that its end waited for."""

    job: str
    arrived_s: float
    ended_s: float
    paused_s: float


class EngineStep(msgspec.Struct, frozen=True, array_like=True):
    """One step of an engine, and the turns that were sent to it just before; seconds since the run's start."""

    sent: list[str]
    start_s: float
    end_s: float


class Client(msgspec.Struct):
    """The replayer's own side of a run over HTTP: what it cost and what it had to repeat; seconds.

    `send_lag_s`: from the moment a call was due to its sending, one a call. `loop_lag_s`: how late a timer came, many
    times a second: an upper bound of what the replayer adds to a measured time. `parts`: 2 or more if it was resumed.
    """

    connections: int
    timeouts: int = 0
    refused: int = 0
    busy: int = 0
    retries: int = 0
    events: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    cache_reset: bool = False
    peak_open: int = 0
    parts: int = 1
    send_lag_s: list[float] = []
    loop_lag_s: list[float] = []


class RunResult(msgspec.Struct, frozen=True):
    """What a worker saw. `evictions` is in blocks, None where the engine does not say.

    `alone_s`: by job, its latency in seconds with the engine to itself; empty where that was not measured.
    `steps`: all of them, if they were to be logged. `idle_token_s`: tokens that paused contexts kept in memory, times
    how long (`IdleMeter`). `interrupted`: it was ended before its last job. `client`: what driving a server cost.
    Counts of a whole run stand here where only the server's own counters say them.
    """

    calls: list[CallRecord]
    jobs: list[JobRecord]
    evictions: int | None
    makespan_s: float
    classes: dict[str, str]
    alone_s: dict[str, float] = {}
    steps: list[EngineStep] = []
    idle_token_s: float | None = None
    holes_mean: float | None = None
    cached_tokens: int | None = None
    cached_after_hole: int | None = None
    preemptions: int | None = None
    interrupted: bool = False
    client: Client | None = None
    residency: dict[str, Any] | None = None


class Progressed(msgspec.Struct, tag="progress", frozen=True):
    """So many calls have ended."""

    calls: int


class Ended(msgspec.Struct, tag="result", frozen=True):
    """The run is over."""

    result: RunResult


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The run cannot be made; `error` names a class of `agentcache.errors`."""

    error: str
    message: str
    hint: str | None


Message = Progressed | Ended | Failed
