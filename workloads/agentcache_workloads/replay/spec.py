"""What one run is told and what it tells: the messages between the command and its worker process."""

from typing import Any

import msgspec

STOCK = "vllm-lru"
"""The row of stock vLLM, AgentCache switched off; every ratio is to it."""


KEY = "forced_output"
"""Where in `SamplingParams.extra_args` the token ids to say stand; a request without it is not touched."""

IDLE_TOTAL = "agentcache_idle_retained_token_seconds_total"
"""A server's counter of token-seconds that were kept for paused contexts."""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a trace is replayed.

    `sessions`: jobs (None: all), the first in the SHA-256 order of the ids of those that keep a call. `max_calls`:
    first calls of each job. `max_ctx`: prompt tokens of the trace; a job is cut before its first call above it.
    `max_pause_s`: cap of recorded pauses, in trace seconds.

    How the file is read: its format (`form`, None: by its look), tokens of a block where the format leaves that open
    (`trace_block_size`), whether requests without a session are linked, and a model of the pauses that it does not
    know, with its seed.
    """

    sessions: int | None = None
    max_calls: int | None = None
    max_ctx: int | None = None
    max_pause_s: float = 600.0
    form: str | None = None
    trace_block_size: int | None = None
    link: bool = False
    pauses: str | None = None
    pauses_seed: int = 1


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a server is driven over HTTP.

    `output`: forced or ignore-eos. `connections`: open at once at most. `timeout_s`: of one attempt, without a byte.
    `retries`: further attempts of a call that brought no token. `ramp_s`: the slots open one after the other over this
    time.
    """

    url: str
    output: str = "forced"
    dialect: str = "vllm-xargs"
    connections: int = 1024
    timeout_s: float = 600.0
    retries: int = 2
    ramp_s: float = 0.0


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run: one policy, one seed, one fresh engine. Tokens are engine tokens; `time_scale` multiplies pauses.

    `log`: record the engine's steps. `watch`: look at what is resident. `remote`: of the engine `http` alone,
    whose server may have run before. `oracle`: the policy is told every pause before it happens.
    """

    trace: str
    selection: Selection
    policy: str
    admission: str
    profile: str | None
    mode: str
    seed: int
    slots: int
    time_scale: float
    tokens_per_block: int
    hints: bool
    model: str
    vocab_size: int
    dtype: str
    block_size: int
    cache_blocks: int
    max_batched_tokens: int
    max_context_tokens: int
    chunking: str = "off"
    engine: str = "vllm"
    arrival: str = "closed"
    log: bool = False
    remote: Remote | None = None
    watch: bool = False
    oracle: bool = False

    @property
    def stock(self) -> bool:
        return self.policy == STOCK


class CallRecord(msgspec.Struct):
    """One call as it went. Seconds since the run's start; None: the engine does not say, or it did not get there.

    `arrived_s`: when it was due. `sent_s`: when the replayer sent it first. `gaps_s`: between its tokens.
    `cached_known`: whether the engine said how much it found.
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


class JobRecord(msgspec.Struct, frozen=True):
    """One complete job. `paused_s`: pauses (scaled) on the chain of turns that its end waited for."""

    job: str
    arrived_s: float
    ended_s: float
    paused_s: float


class Step(msgspec.Struct, frozen=True, array_like=True):
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
    steps: list[Step] = []
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
