"""What happened: one stream of frozen facts that every host feeds to the residency, and it to its policy.

Times are seconds on the host's monotonic clock and travel beside the event, not in it. `turn` is the host's
request id; `job` and `context` are ids from hints, or None where nobody said.
"""

from dataclasses import dataclass
from enum import Enum

from agentcache.model.block import Key
from agentcache.model.signals import BlocksRestood, ContextChanged


class Stop(Enum):
    """Why a turn's output ended."""

    TOOL_USE = "tool_use"
    END_TURN = "end_turn"
    LENGTH = "length"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobStarted:
    job: str


@dataclass(frozen=True, slots=True)
class TurnArrived:
    """A request came in. `keys` are those of its full prompt blocks, in order; `order_key`: lower runs earlier."""

    turn: str
    keys: tuple[Key, ...]
    job: str | None = None
    context: str | None = None
    tool: str | None = None  # the tool that has just run
    order_key: int = 0


@dataclass(frozen=True, slots=True)
class TurnScheduled:
    """A turn got its blocks: `cached` of its `tokens` were resident, `after_hole` of those behind a hole.

    `gaps` are the token ranges [p, e) that it has to compute, the trailing one included; empty if the host cannot say.
    Of what is cached, `loaded` tokens come from a tier below.
    """

    turn: str
    tokens: int
    cached: int
    after_hole: int
    holes: int
    gaps: tuple[tuple[int, int], ...] = ()
    loaded: int = 0


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """A turn's output is complete. `keys` are the keys of all its full blocks, prompt and output."""

    turn: str
    keys: tuple[Key, ...]
    stop: Stop = Stop.UNKNOWN
    tool: str | None = None  # the tool about to run
    last: bool | None = None  # True: nothing follows; False: a return is promised; None: nobody said


@dataclass(frozen=True, slots=True)
class TurnAborted:
    turn: str


@dataclass(frozen=True, slots=True)
class TurnPreempted:
    turn: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    job: str
    tool: str
    expected_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolFinished:
    job: str
    tool: str


@dataclass(frozen=True, slots=True)
class JobFinished:
    job: str


@dataclass(frozen=True, slots=True)
class BlocksStored:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class BlocksEvicted:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class PoolResized:
    blocks: int


@dataclass(frozen=True, slots=True)
class RetainAsked:
    """Somebody asks to keep a job's contexts for `ttl_s` seconds: a claim, not a command."""

    job: str
    ttl_s: float
    keep_priority: int = 35  # 0-100, higher is kept longer


@dataclass(frozen=True, slots=True)
class StepTimed:
    """One engine step: prefill tokens, their causal pair term sum(e^2 - p^2), decodes and their context tokens.

    `segments`: runs of consecutive prefill tokens; `linked`: resident tokens that prefills touched for the first time;
    `predicted_s`: what the step was expected to take, where somebody expected anything.
    """

    seconds: float
    tokens: int
    pairs: float
    decodes: int
    context_tokens: int
    segments: int = 0
    linked: int = 0
    predicted_s: float | None = None


Event = (
    JobStarted
    | TurnArrived
    | TurnScheduled
    | TurnFinished
    | TurnAborted
    | TurnPreempted
    | ToolStarted
    | ToolFinished
    | JobFinished
    | BlocksStored
    | BlocksEvicted
    | BlocksRestood
    | ContextChanged
    | PoolResized
    | RetainAsked
    | StepTimed
)
