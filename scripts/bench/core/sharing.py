"""What a turn costs the core as more contexts share their beginning: thread CPU seconds, no hints.

    python scripts/bench/core/sharing.py [--csv docs/results/sharing.csv]

A residency with `return-index`, under each admission, as a scheduler drives it: a turn arrives, is admitted,
takes its resident blocks and evicts for new ones, finishes and gives its blocks back. Contexts share their first 4
blocks (none in the control) and have 5 of their own, and an answer that the next prompt leaves out. 20 turns a second,
each of a context at random: of 4,096, a thousand are expected back at any time.
"""

import argparse
import csv
import gc
import random
import statistics
import time
from pathlib import Path

from agentcache.cost import CostModel, CostProfile
from agentcache.model import (
    Block,
    BlocksStored,
    Context,
    Key,
    Standing,
    Stop,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy import make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.residency import Residency
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

SHARED, OWN = 4, 5
TURNS_PER_S = 20
COST = CostModel(CostProfile(c_lin=3.33e-5, c_att=6.55e-10), 16)
COLUMNS = ["admission", "contexts", "shared_blocks", "own_blocks", "turns", "p50_us", "p99_us", "max_us"]


class Agents:
    """Contexts of a pool that they nearly fill: each turn leaves its answer behind, which is evicted in time."""

    def __init__(self, rule: str, contexts: int, shared: int, seed: int) -> None:
        capacity = shared + contexts * (SHARED + OWN - shared + 1) + 64
        policy = make_policy("return-index", COST, capacity)
        admission = parse_admission(rule)
        self.core = Residency(policy, capacity, max_contexts=2 * contexts, admission=admission)
        self.empty = [Block(number, None, 0) for number in range(capacity)]
        self.resident: dict[Key, Block] = {}
        self.draw = random.Random(seed)
        self.shared = shared
        self.now = 0.0
        self.turns = 0
        for _ in range(100):
            seen = Context("seen", "", standing=Standing.TOOL, tool="bash", depth=3)
            self.core.survival.paused(seen, 0.0)
            self.core.survival.returned(seen, self.draw.expovariate(0.1))
        self.core.survival.rebuild(0.0)
        for prompt in (SHARED + OWN - 1, SHARED + OWN):
            for number in range(contexts):
                self.turn(number, prompt)

    def turn(self, number: int, prompt: int = SHARED + OWN) -> float:
        """A whole turn of a context; returns the thread CPU seconds that the core took for it."""
        self.turns += 1
        self.now += self.draw.expovariate(TURNS_PER_S)
        core, turn, now = self.core, f"t{self.turns}", self.now
        keys: tuple[Key, ...] = tuple((block,) if block < self.shared else (number, block) for block in range(prompt))
        whole = (*keys, (number, prompt, self.turns))
        start = time.thread_time()
        core.observe(TurnArrived(turn, keys), now)
        core.admit(now)
        assert core.may_run(turn)
        found = [self.resident[key] for key in keys if key in self.resident]
        core.acquire(found, now)
        core.observe(TurnScheduled(turn, len(whole) * 16, len(found) * 16, 0, 0), now)
        held = {block.key: block for block in found}
        missing = [(index, key) for index, key in enumerate(whole) if key not in held]
        if len(missing) > len(self.empty):
            victims = core.victims(len(missing) - len(self.empty), now)
            assert victims is not None
            for block in victims:
                del self.resident[block.key]
            self.empty += victims
        for index, key in missing:
            block = held[key] = self.resident[key] = self.empty.pop()
            block.index, block.key = index, key
        core.observe(BlocksStored(tuple(key for _, key in missing)), now)
        core.observe(TurnFinished(turn, whole, Stop.TOOL_USE), now)
        core.release([held[key] for key in reversed(whole)], now)
        return time.thread_time() - start


def measure(rule: str, contexts: int, shared: int, turns: int, seed: int) -> dict[str, object]:
    agents = Agents(rule, contexts, shared, seed)
    gc.collect()
    gc.freeze()
    order = random.Random(seed)
    times = sorted(agents.turn(order.randrange(contexts)) * 1e6 for _ in range(turns))
    assert len({c.id for c in agents.core.contexts}) == contexts, "each agent is one context"
    agents.core.check()
    numbers = [f"{value:.1f}" for value in (statistics.median(times), times[int(0.99 * turns)], times[-1])]
    print(
        f"{rule:12} {contexts:6} contexts, {shared} shared: p50 {numbers[0]} us, p99 {numbers[1]}, max {numbers[2]}",
        flush=True,
    )
    return dict(zip(COLUMNS, (rule, contexts, shared, SHARED + OWN - shared, turns, *numbers), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, default=Path("docs/results/sharing.csv"))
    parser.add_argument("--turns", type=int, default=3000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--admission", default="fcfs,working-set")
    args = parser.parse_args()
    host = describe_host()
    known = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    rows = [
        measure(rule, contexts, shared, args.turns, seed) | known | {"seed": seed}
        for rule in args.admission.split(",")
        for seed in map(int, args.seeds.split(","))
        for contexts, shared in ((300, 0), (300, SHARED), (1000, SHARED), (4096, SHARED))
    ]
    fresh = not args.csv.exists()
    with args.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
