"""When jobs arrive: in a closed loop as slots become free, or at times of their own, whatever the engine does."""

import random
from collections.abc import Callable, Sequence
from itertools import accumulate

from agentcache.errors import ConfigError
from agentcache.specs import Spec
from agentcache_workloads.replay.jobs.jobs import PlannedJob
from agentcache_workloads.replay.spec import ARRIVALS


def arrival_times(spec: str, jobs: Sequence[PlannedJob], seed: int, time_scale: float = 1.0) -> list[float] | None:
    """The arrival of each job in seconds, in their order; None for the closed loop.

    `poisson:JPS` draws exponential gaps with JPS jobs a second, `gamma:JPS,CV` gaps of that rate and coefficient of
    variation, `trace` takes the recorded arrivals, scaled, `all-at-once` is 0. Raises `ConfigError` for another
    spec, a bad number, or a trace without arrivals.
    """
    given = Spec("--arrival", spec)
    numbers = [_rate(given, part) for part in given.value.split(",")] if given.value else []
    draw = random.Random(f"arrivals/{seed}")
    match given.name, numbers:
        case "closed", []:
            return None
        case "all-at-once", []:
            return [0.0] * len(jobs)
        case "trace", []:
            if missing := next((job.id for job in jobs if job.arrival_s is None), None):
                raise ConfigError(
                    f"--arrival is trace, but the trace does not say when job {missing} arrived; nothing was started",
                    hint="use closed or poisson:JPS",
                )
            return [(job.arrival_s or 0.0) * time_scale for job in jobs]
        case "poisson", [rate]:
            return _summed(lambda: draw.expovariate(rate), len(jobs))
        case "gamma", [rate, cv]:
            return _summed(lambda: draw.gammavariate(1 / cv**2, cv**2 / rate), len(jobs))
    raise ConfigError(
        f"--arrival is {spec!r}, expected one of {', '.join(ARRIVALS)}; nothing was started", hint="as in poisson:0.05"
    )


def _summed(gap: Callable[[], float], count: int) -> list[float]:
    return list(accumulate(gap() for _ in range(count)))


def _rate(given: Spec, text: str) -> float:
    if (value := given.number("a rate", text)) <= 0:
        raise given.unexpected("a rate", text, "a number above 0")
    return value
