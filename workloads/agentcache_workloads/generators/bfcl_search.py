"""Jobs like BFCL's web search: Continuum's second workload (arXiv:2511.02230, section 6), by its published statistics.

The paper gives 6.3 turns a job, 93K tokens a job of which its runs keep 0.4, and tools of 1.92 s on the mean. The rest
is ours: turns are 1 + Poisson; all jobs share the 1,024 tokens of instructions and tool descriptions; a question has
512; an output has 256; search results make up what is left, each spread by a Gamma of CV 0.7; durations are Gamma.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from agentcache_workloads.generators.draw import gamma
from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.trace import Meta, Session

BLOCK = 64  # tokens a block id stands for
TURNS = 6.3
JOB_TOKENS = 93_000
TOOL_S = 1.92
SHARED, QUESTION, OUTPUT = 1024, 512, 256
RESULT_CV = 0.7
TOOLS = ("web_search", "fetch_url")


class BfclSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`jobs` in all. `scale` multiplies lengths, as the paper's runs do; `tool_cv` is standard deviation over mean."""

    jobs: int = 150
    scale: float = 0.4
    tool_cv: float = 1.0

    def __post_init__(self) -> None:
        if not (self.jobs > 0 and self.tool_cv > 0 and self.scale * JOB_TOKENS >= 2 * (SHARED + QUESTION)):
            raise ValueError("jobs and tool_cv must be positive, scale at least 0.04")


def generate(spec: BfclSearch, seed: int) -> tuple[Meta, Iterator[Session]]:
    """The head and the jobs; they have no arrival times. The same for a seed."""
    turns = (1 + np.random.default_rng((seed, 0)).poisson(TURNS - 1, size=spec.jobs)).tolist()
    source = {"generator": "bfcl", "seed": seed, **msgspec.to_builtins(spec)}
    meta = make_meta("bfcl_web_search", spec.jobs, sum(turns), BLOCK, source, split="generated")
    return meta, _sessions(spec, turns, seed)


def _sessions(spec: BfclSearch, turns: list[int], seed: int) -> Iterator[Session]:
    rng = np.random.default_rng((seed, 1))
    result = (spec.scale * JOB_TOKENS - SHARED - QUESTION - TURNS * OUTPUT) / (TURNS - 1)
    shared = tuple(range(1, SHARED // BLOCK + 1))
    next_id = len(shared) + 1
    for number, count in enumerate(turns):
        tokens = SHARED + QUESTION
        ids = shared
        tool: str | None = None
        calls = []
        for turn in range(count):
            fresh = tokens // BLOCK - len(ids)
            ids += tuple(range(next_id, next_id + fresh))
            next_id += fresh
            pause_s = round(gamma(rng, TOOL_S, spec.tool_cv), 3) if turn else 0.0
            tool = str(rng.choice(TOOLS)) if turn + 1 < count else None
            calls.append(
                make_call(
                    turn,
                    after=turn - 1 if turn else None,
                    delay_s=pause_s,
                    kind="tool" if turn else "start",
                    in_tok=tokens,
                    out_tok=OUTPUT,
                    items=ids,
                    stop="tool_use" if tool else "end_turn",
                    tools=(tool,) if tool else (),
                )
            )
            tokens += OUTPUT + max(round(gamma(rng, result, RESULT_CV)), 1)
        yield make_session(f"bfcl-{number:05d}", calls, agent="web-search")
