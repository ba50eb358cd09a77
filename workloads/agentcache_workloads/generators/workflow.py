"""Agent workflows: each step of a job is another agent, with a fixed prompt that all jobs share and a dynamic part.

The shape of the workflows that KVFlow (arXiv:2507.07400) measures: so many agents one after the other, each with a
fixed prompt of thousands of tokens, tens of tokens of its own, and tens of output; round after round.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.trace import Meta, Session

BLOCK = 16  # tokens a block id stands for: a dynamic part is small


class Workflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`jobs` of `rounds` over all `agents`; tokens of each agent's fixed part, of a call's dynamic part and output.

    `skip` is the chance that a step is left out, `pause_s` the mean of an exponential pause between two steps.
    """

    jobs: int = 50
    agents: int = 10
    rounds: int = 1
    fixed: int = 8192
    dynamic: int = 32
    output: int = 32
    skip: float = 0.0
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if min(self.jobs, self.agents, self.rounds, self.fixed, self.dynamic, self.output) < 1:
            raise ValueError("jobs, agents, rounds, fixed, dynamic and output must be at least 1")
        if not (0 <= self.skip < 1 and self.pause_s >= 0):
            raise ValueError("skip must be in [0, 1), pause_s at least 0")


def generate(spec: Workflow, seed: int) -> tuple[Meta, Iterator[Session]]:
    """The head and the jobs; they have no arrival times. The same for a seed."""
    taken = np.random.default_rng((seed, 0)).random((spec.jobs, spec.rounds * spec.agents)) >= spec.skip
    taken[:, 0] = True
    source = {"generator": "workflow", "seed": seed, **msgspec.to_builtins(spec)}
    meta = make_meta("workflow", spec.jobs, int(taken.sum()), BLOCK, source, split="generated")
    return meta, _sessions(spec, taken, seed)


def _sessions(spec: Workflow, taken: np.ndarray, seed: int) -> Iterator[Session]:
    rng = np.random.default_rng((seed, 1))
    whole = spec.fixed // BLOCK
    next_id = spec.agents * whole + 1
    tokens = spec.fixed + spec.dynamic
    for number in range(spec.jobs):
        calls = []
        steps = np.flatnonzero(taken[number]).tolist()
        for turn, step in enumerate(steps):
            agent = step % spec.agents
            own = tokens // BLOCK - whole
            ids = (*range(agent * whole + 1, (agent + 1) * whole + 1), *range(next_id, next_id + own))
            next_id += own
            last = turn + 1 == len(steps)
            calls.append(
                make_call(
                    turn,
                    after=turn - 1 if turn else None,
                    delay_s=round(float(rng.exponential(spec.pause_s)), 3) if turn and spec.pause_s else 0.0,
                    kind="tool" if turn else "start",
                    in_tok=tokens,
                    out_tok=spec.output,
                    items=ids,
                    stop="end_turn" if last else "tool_use",
                    tools=() if last else (f"agent_{steps[turn + 1] % spec.agents}",),
                )
            )
        yield make_session(f"workflow-{number:05d}", calls, agent="workflow")
