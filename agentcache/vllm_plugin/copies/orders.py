"""What a step tells its worker to copy, and what the worker tells of it.

Both ride on messages of vLLM's as attributes that it does not declare: `ORDERS` on its `SchedulerOutput`, `REPORTS` on
its `ModelRunnerOutput`.
"""

from dataclasses import dataclass

ORDERS, REPORTS = "agentcache_copy_orders", "agentcache_copy_reports"

Pair = tuple[int, int]
"""A block of the pool and a place in host memory, by their numbers."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Of one step: `down` is copied before anything of it or of `up` is written, and `up` any time from then on.

    A step may begin before `up` is copied: nobody reads or writes those blocks until it is reported. `settle`: wait for
    all earlier copies first, whose blocks have been given to others.
    """

    number: int
    down: tuple[Pair, ...] = ()
    up: tuple[Pair, ...] = ()
    settle: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """One direction of these orders is over: every block of it is where it was to go, or it has `failed` as a whole."""

    number: int
    up: bool
    seconds: float = 0.0
    failed: bool = False
