"""What to do: the core's answers to events. The host applies them and reports back as events."""

from dataclasses import dataclass

from agentcache.model.block import Key


@dataclass(frozen=True, slots=True)
class Evict:
    """Drop these blocks now; they are not worth their memory to anybody."""

    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Retain:
    """Do not evict this job's contexts before `until` (seconds, the host's clock) unless nothing else is left."""

    job: str
    until: float


@dataclass(frozen=True, slots=True)
class Release:
    """This job's contexts are not expected back: they go first."""

    job: str


@dataclass(frozen=True, slots=True)
class Join:
    """The job's turns may run."""

    job: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The job's turns wait."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute this many prefill tokens of a turn in the coming step."""

    turn: str
    tokens: int


Decision = Evict | Retain | Release | Join | Hold | Chunk
