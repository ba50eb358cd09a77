"""What the core has decided of jobs, and keeps to by itself: a host counts and shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """This job's contexts are not expected back: their blocks go first from now on."""

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


Decision = Release | Join | Hold
