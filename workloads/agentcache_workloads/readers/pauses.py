"""Pauses for calls whose source does not know them: from the time between calls, or drawn from a model.

The models: `infercept:KIND`, mean and standard deviation of the pauses of InferCept's tools (arXiv:2402.01869), as a
Gamma distribution, `mixed` being one kind a job; `cachewise-bash`, the median, 90th and 99th percentile of four shell
commands, log-linear between them; `empirical:FILE`, the recorded tool pauses of another trace; `const:S`; and
`lognormal:MU,SIGMA`, of the logarithm of seconds.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from agentcache.errors import InputError
from agentcache.specs import Spec
from agentcache_workloads.readers.trace import Session, TraceCall

Draw = Callable[[random.Random], float]

INFERCEPT = {
    "math": (9e-5, 6e-5),
    "qa": (0.69, 0.17),
    "ve": (0.09, 0.014),
    "chatbot": (28.6, 15.6),
    "image": (20.0, 7.8),
    "tts": (17.2, 7.6),
}
"""Seconds: mean, standard deviation."""

BASH = {
    "python -c": (0.1, 0.2, 0.4),
    "git": (0.1, 34.0, 97.0),
    "mypy": (10.0, 56.0, 182.0),
    "docker compose": (22.0, 89.0, 152.0),
}
"""Seconds: P50, P90, P99."""

MODELS = "none, cycle:S, const:S, lognormal:MU,SIGMA, infercept:KIND, cachewise-bash, empirical:FILE"


def with_pauses(sessions: Iterable[Session], spec: str, seed: int, *, every: bool = False) -> Iterator[Session]:
    """The sessions with the pauses that are unknown filled in, or, with `every`, all pauses behind a call replaced.

    `none` is 0; `cycle:S` the recorded time from start to start less `S` seconds of service, at least 0. The same for
    a seed, whatever else the trace holds. Raises `ConfigError` for another `spec`.
    """
    given = Spec("pauses", spec, "nothing was done")
    name, make = given.name, _makers(given)

    def paused(call: TraceCall, draw: Draw, rng: random.Random) -> TraceCall:
        if call.after is None or (call.delay_s is not None and not every):
            return call
        cycle_s = call.record.get("cycle_s")
        if name == "cycle":
            return call if cycle_s is None else dataclasses.replace(call, delay_s=max(0.0, cycle_s - draw(rng)))
        return dataclasses.replace(call, delay_s=round(draw(rng), 6))

    def filled() -> Iterator[Session]:
        for session in sessions:
            rng = random.Random(f"pauses/{seed}/{session.sid}")
            draw = make(rng)
            yield dataclasses.replace(session, calls=tuple(paused(call, draw, rng) for call in session.calls))

    return filled()


def _makers(given: Spec) -> Callable[[random.Random], Draw]:
    """For a job's random numbers, how its pauses are drawn."""
    rest = given.value
    match given.name:
        case "none" if not rest:
            return lambda job: lambda rng: 0.0
        case "cycle" | "const":
            [seconds] = given.numbers("S", least=0)
            return lambda job: lambda rng: seconds
        case "lognormal":
            mu, sigma = given.numbers("MU", "SIGMA")
            return lambda job: lambda rng: rng.lognormvariate(mu, sigma)
        case "infercept" if rest == "mixed":
            kinds = [gamma(*INFERCEPT[kind]) for kind in sorted(INFERCEPT)]
            return lambda job: job.choice(kinds)
        case "infercept" if rest in INFERCEPT:
            return lambda job: gamma(*INFERCEPT[rest])
        case "cachewise-bash" if not rest:
            commands = [_quantiles(BASH[command]) for command in sorted(BASH)]
            return lambda job: lambda rng: rng.choice(commands)(rng)
        case "empirical" if rest:
            pauses = recorded_pauses(rest)
            return lambda job: lambda rng: rng.choice(pauses)
    raise given.error(f"pauses {given.text!r} are not known", f"known: {MODELS}")


def recorded_pauses(path: str) -> list[float]:
    """The tool pauses that a trace recorded, in seconds. Raises `InputError` for one without any."""
    from agentcache_workloads.readers.open import open_trace

    pauses = [
        call.delay_s
        for session in open_trace(path)[1]
        for call in session.calls
        if call.delay_kind in ("tool", "tool_or_user") and call.delay_s is not None
    ]
    if not pauses:
        raise InputError(f"trace {path} has no recorded tool pause; nothing was done")
    return pauses


def gamma(mean: float, deviation: float) -> Draw:
    """Gamma with this mean and standard deviation."""
    shape = (mean / deviation) ** 2
    return lambda rng: rng.gammavariate(shape, mean / shape)


def _quantiles(known: Sequence[float]) -> Draw:
    """Log-linear between the median, 90 % and 99 %; below the median from a tenth of it, above 99 % its value."""
    points = [(0.0, known[0] / 10), (0.5, known[0]), (0.9, known[1]), (0.99, known[2]), (1.0, known[2])]

    def draw(rng: random.Random) -> float:
        at = rng.random()
        for (low, a), (high, b) in pairwise(points):
            if at <= high:
                return math.exp(math.log(a) + (math.log(b) - math.log(a)) * (at - low) / (high - low))
        return known[2]

    return draw
