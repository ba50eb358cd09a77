"""What one run is told and what it tells: the messages between the command and its worker process."""

import msgspec

from agentcache_workloads.replay.plan import Selection

STOCK = "vllm-lru"
"""The row of stock vLLM, AgentCache switched off; every ratio is to it."""


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run: one policy, one seed, one fresh engine. Tokens are engine tokens; `time_scale` multiplies pauses.

    `log`: record the engine's steps.
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

    @property
    def stock(self) -> bool:
        return self.policy == STOCK


class CallRecord(msgspec.Struct):
    """One call as it went. Seconds since the run's start; None: the engine does not say, or it did not get there."""

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


class RunResult(msgspec.Struct, frozen=True):
    """What a worker saw. `evictions` is in blocks, None where the engine does not say.

    `alone_s`: by job, its latency in seconds with the engine to itself; empty where that was not measured.
    `steps`: all of them, if they were to be logged.
    """

    calls: list[CallRecord]
    jobs: list[JobRecord]
    evictions: int | None
    makespan_s: float
    classes: dict[str, str]
    alone_s: dict[str, float] = {}
    steps: list[Step] = []


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
