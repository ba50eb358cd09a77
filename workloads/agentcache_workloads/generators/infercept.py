"""Augmented requests with interceptions: the six kinds of InferCept (arXiv:2402.01869) with its tools' pauses.

Pauses have the published mean and standard deviation of each kind. Interceptions of a request, and its context when one
comes, are choices close to the paper's table. The rest is ours: all three are Gamma; the prompt starts with a third of
the context and grows evenly, so that the mean over interceptions is the context's; an output between two interceptions
has 32 tokens; requests arrive as a Poisson process; each kind has 512 tokens of instructions that its requests share.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.pauses import INFERCEPT
from agentcache_workloads.readers.trace import Meta, Session

BLOCK = 64  # tokens a block id stands for
OUTPUT, SHARED = 32, 512
KINDS = {
    "math": ((3.75, 1.3), (1422, 738)),
    "qa": ((2.52, 1.73), (1846, 428)),
    "ve": ((28.18, 15.2), (2185, 115)),
    "chatbot": ((4.45, 1.96), (753, 703)),
    "image": ((6.91, 3.93), (1247, 792)),
    "tts": ((6.91, 3.93), (1251, 792)),
}
"""Interceptions of a request, and tokens of its context when one comes: mean, standard deviation."""


class InferCept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`jobs` requests, `jps` a second, of one kind or mixed evenly."""

    kind: Literal["math", "qa", "ve", "chatbot", "image", "tts", "mixed"] = "mixed"
    jobs: int = 200
    jps: float = 2.0

    def __post_init__(self) -> None:
        if not (self.jobs > 0 and self.jps > 0):
            raise ValueError("jobs and jps must be positive")


def generate(spec: InferCept, seed: int) -> tuple[Meta, Iterator[Session]]:
    """The head and the requests, in order of arrival. The same for a seed."""
    rng = np.random.default_rng((seed, 0))
    names = sorted(KINDS)
    kinds = [names[i] for i in rng.integers(len(names), size=spec.jobs)] if spec.kind == "mixed" else []
    kinds = kinds or [spec.kind] * spec.jobs
    counts = [max(round(_gamma(rng, *KINDS[kind][0])), 1) for kind in kinds]
    calls = sum(counts) + spec.jobs
    source = {"generator": "infercept", "seed": seed, **msgspec.to_builtins(spec)}
    meta = make_meta(f"infercept_{spec.kind}", spec.jobs, calls, BLOCK, source, split="generated", arrival="Poisson")
    return meta, _sessions(spec, kinds, counts, seed)


def _sessions(spec: InferCept, kinds: list[str], counts: list[int], seed: int) -> Iterator[Session]:
    rng = np.random.default_rng((seed, 1))
    shared = {name: tuple(range(8 * i + 1, 8 * i + 9)) for i, name in enumerate(sorted(KINDS))}
    next_id, arrival_s = 8 * len(KINDS) + 1, 0.0
    for number, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        arrival_s += float(rng.exponential(1 / spec.jps))
        context = max(_gamma(rng, *KINDS[kind][1]), 96.0)
        first = context / 3
        step = 2 * (context - first) / max(count - 1, 1)
        ids, calls = shared[kind], []
        for turn in range(count + 1):
            tokens = SHARED + max(round(first + step * turn) - SHARED, OUTPUT * (turn + 1))
            missing = tokens // BLOCK - len(ids)
            ids += tuple(range(next_id, next_id + missing))
            next_id += max(missing, 0)
            calls.append(
                make_call(
                    turn,
                    after=turn - 1 if turn else None,
                    delay_s=round(_gamma(rng, *INFERCEPT[kind]), 6) if turn else 0.0,
                    kind="start" if not turn else "user" if kind == "chatbot" else "tool",
                    in_tok=tokens,
                    out_tok=OUTPUT,
                    items=ids,
                    stop="end_turn" if kind == "chatbot" or turn == count else "tool_use",
                    tools=() if kind == "chatbot" or turn == count else (kind,),
                )
            )
        yield make_session(f"infercept-{number:05d}", calls, agent=kind, arrival_s=round(arrival_s, 3))


def _gamma(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return float(rng.gamma((mean / deviation) ** 2, deviation**2 / mean))
