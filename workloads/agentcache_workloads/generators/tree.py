"""Tree search with sub-agents: a job expands its context into branches side by side, and goes on from the best one.

The shape of search agents such as LATS (arXiv:2310.04406); no numbers of it are copied, all of them are parameters.
Each branch is a sub-agent's session that begins with the job's context; the job's next call waits for all of them, and
its prompt is the context of one of them.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.trace import Meta, Parent, Session, TraceCall

BLOCK = 64  # tokens a block id stands for
SERVICE_S = 2.0
"""Recorded seconds of a call, which tell a replay where in a branch its time went."""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`jobs` of `depth` expansions into `fan_out` branches of `branch_calls` calls each.

    `shared` tokens of instructions for all jobs, `question` of each job's own, `output` of a call, `result` of a
    tool. `tool_s`: mean of a branch's exponential pauses.
    """

    jobs: int = 20
    depth: int = 4
    fan_out: int = 5
    branch_calls: int = 2
    shared: int = 2048
    question: int = 512
    output: int = 128
    result: int = 384
    tool_s: float = 1.0

    def __post_init__(self) -> None:
        if min(self.jobs, self.depth, self.fan_out, self.branch_calls, self.question, self.output) < 1:
            raise ValueError("jobs, depth, fan_out, branch_calls, question and output must be at least 1")
        if min(self.shared, self.result) < 0 or not self.tool_s >= 0:
            raise ValueError("shared, result and tool_s must not be negative")


def generate(spec: Tree, seed: int) -> tuple[Meta, Iterator[Session]]:
    """The head and the jobs, each followed by its branches; they have no arrival times. The same for a seed."""
    branches = spec.jobs * spec.depth * spec.fan_out
    calls = spec.jobs * (spec.depth + 1) + branches * spec.branch_calls
    source = {"generator": "tree", "seed": seed, **msgspec.to_builtins(spec)}
    meta = make_meta("tree", spec.jobs + branches, calls, BLOCK, source, split="generated")
    return meta, _Jobs(spec, seed).sessions()


class _Jobs:
    def __init__(self, spec: Tree, seed: int) -> None:
        self.spec = spec
        self.rng = np.random.default_rng((seed, 0))
        self.next_id = 1

    def fresh(self, ids: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        """The ids of a context of so many tokens that begins with these blocks."""
        missing = max(tokens // BLOCK - len(ids), 0)
        self.next_id += missing
        return (*ids, *range(self.next_id - missing, self.next_id))

    def sessions(self) -> Iterator[Session]:
        shared = self.fresh((), self.spec.shared)
        for number in range(self.spec.jobs):
            yield from self.job(f"tree-{number:05d}", shared)

    def job(self, sid: str, shared: tuple[int, ...]) -> list[Session]:
        spec, rng = self.spec, self.rng
        tokens = spec.shared + spec.question
        ids = self.fresh(shared, tokens)
        root: list[TraceCall] = []
        branches: list[Session] = []
        waited_s = 0.0
        for level in range(spec.depth + 1):
            last = level == spec.depth
            names = () if last else tuple(f"{sid}.{level}.{i}" for i in range(spec.fan_out))
            root.append(
                make_call(
                    level,
                    after=level - 1 if level else None,
                    delay_s=round(waited_s, 3),
                    kind="subagent" if level else "start",
                    in_tok=tokens,
                    out_tok=spec.output,
                    items=ids,
                    stop="end_turn" if last else "tool_use",
                    tools=() if last else ("expand",),
                    spawn=names,
                    api_s=SERVICE_S,
                )
            )
            if not last:
                made = [self.branch(name, Parent(sid, level, 0.0), ids, tokens) for name in names]
                branches += [session for session, _, _ in made]
                waited_s = max(session.span_s for session, _, _ in made)
                _, ids, tokens = made[int(rng.integers(spec.fan_out))]
        return [make_session(sid, root, agent="tree-search"), *branches]

    def branch(
        self, sid: str, parent: Parent, ids: tuple[int, ...], tokens: int
    ) -> tuple[Session, tuple[int, ...], int]:
        """A branch, and the context that it ends with."""
        spec = self.spec
        calls, at_s = [], 0.0
        for turn in range(spec.branch_calls):
            pause_s = round(float(self.rng.exponential(spec.tool_s)), 3) if turn and spec.tool_s else 0.0
            tokens += spec.output + (spec.result if turn else 0)
            ids = self.fresh(ids, tokens)
            last = turn + 1 == spec.branch_calls
            at_s += pause_s
            calls.append(
                make_call(
                    turn,
                    after=turn - 1 if turn else None,
                    delay_s=pause_s,
                    kind="tool" if turn else "start",
                    in_tok=tokens,
                    out_tok=spec.output,
                    items=ids,
                    stop="end_turn" if last else "tool_use",
                    tools=() if last else ("act",),
                    t_s=round(at_s, 3),
                    api_s=SERVICE_S,
                )
            )
            at_s += SERVICE_S
        return make_session(sid, calls, agent="branch", parent=parent, recorded_dur_s=round(at_s, 3)), ids, tokens
