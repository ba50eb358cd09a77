"""Long-context chats with Gamma arrivals and Gamma pauses: the setting of AsymCache's experiments (arXiv:2606.02964).

The paper gives input and output lengths, the CV of its Gamma processes and the reuse times that came out of them, but
neither turns a chat nor absolute rates. What is ours: 3 to 9 turns; context lengths spread by a factor U(0.7, 1.3);
and pauses set by how many requests of others pass between two turns, from the published reuse times at 0.04 requests/s.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Literal

import msgspec
import numpy as np

from agentcache_workloads.generators.draw import gamma
from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.trace import Meta, Session

BLOCK = 64  # tokens a block id stands for
TURNS = (3, 9)
SPREAD = (0.7, 1.3)
BETWEEN = {"low": 28, "high": 46}
"""Requests between two turns of a chat: 705 s and 1,142 s (P50) at 0.04/s; inter- to intra-session rates 5:1, 10:1."""
LENGTHS = {"loogle": (24_400, 700, 900), "longbench": (34_800, 2_600, 2_700)}
"""Mean prompt tokens of a request, its output tokens, and growth of the context a turn, output included."""

_TURN_COUNTS = np.arange(TURNS[0], TURNS[1] + 1)
_MEAN_INDEX = float((_TURN_COUNTS * (_TURN_COUNTS - 1) / 2).sum() / _TURN_COUNTS.sum())  # of a request in its chat


class Gamma(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trace of chats: `requests` in all, `qps` of them a second once chats have started to overlap.

    `pause_cv` and `arrival_cv` are standard deviation over mean; 1 is a Poisson process, less is near-periodic.
    """

    data: Literal["loogle", "longbench"] = "loogle"
    dispersion: Literal["low", "high"] = "low"
    pause_cv: float = 0.25
    arrival_cv: float = 0.25
    qps: float = 0.04
    requests: int = 300

    def __post_init__(self) -> None:
        if not (self.pause_cv > 0 and self.arrival_cv > 0 and self.qps > 0 and self.requests > 0):
            raise ValueError("pause_cv, arrival_cv, qps and requests must be positive")


def generate(spec: Gamma, seed: int) -> tuple[Meta, Iterator[Session]]:
    """The head and the chats, in order of arrival, each made as it is asked for; the last one is cut at `requests`."""
    counts = _turn_counts(spec, seed)
    source = {"generator": "gamma", "seed": seed, **msgspec.to_builtins(spec)}
    name = f"gamma_{spec.data}_{spec.dispersion}"
    meta = make_meta(name, len(counts), spec.requests, BLOCK, source, split="generated", arrival="Gamma")
    return meta, _sessions(spec, counts, seed)


def _turn_counts(spec: Gamma, seed: int) -> list[int]:
    rng = np.random.default_rng((seed, 0))
    drawn = rng.integers(TURNS[0], TURNS[1], size=-(-spec.requests // TURNS[0]), endpoint=True)
    before = [0, *accumulate(drawn.tolist())]
    return [min(int(n), spec.requests - b) for n, b in zip(drawn, before, strict=False) if b < spec.requests]


def _sessions(spec: Gamma, counts: list[int], seed: int) -> Iterator[Session]:
    rng = np.random.default_rng((seed, 1))
    prompt, output, growth = LENGTHS[spec.data]
    first = prompt - growth * _MEAN_INDEX  # so that the mean over all requests is the published one
    next_id, arrival_s = 1, 0.0
    for number, turns in enumerate(counts):
        arrival_s += gamma(rng, sum(TURNS) / 2 / spec.qps, spec.arrival_cv)
        tokens = round(first * rng.uniform(*SPREAD))
        ids: tuple[int, ...] = ()
        calls = []
        for turn in range(turns):
            fresh = tokens // BLOCK - len(ids)
            ids += tuple(range(next_id, next_id + fresh))
            next_id += fresh
            pause_s = round(gamma(rng, BETWEEN[spec.dispersion] / spec.qps, spec.pause_cv), 3) if turn else 0.0
            calls.append(
                make_call(
                    turn,
                    after=turn - 1 if turn else None,
                    delay_s=pause_s,
                    kind="user" if turn else "start",
                    in_tok=tokens,
                    out_tok=output,
                    items=ids,
                    stop="end_turn",
                )
            )
            tokens += growth
        yield make_session(f"gamma-{number:05d}", calls, agent="chat", arrival_s=round(arrival_s, 3))
