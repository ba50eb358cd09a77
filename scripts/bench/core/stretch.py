"""The longest that one call of the core keeps the scheduler's thread busy, over many simulated steps.

    python scripts/bench/core/stretch.py [--steps 10000] [--out docs/results/stretch.csv]

Thousands of contexts that call 32 tools pause and return, a thousand turns of other jobs are held by admission, and the
pool is so small that turns evict. A step does what the scheduler does: the rule of admission, arrivals, ends, blocks
taken and given back, victims. What is counted is `thread_time`, CPU time of this thread alone, once all contexts have
been seen. Python's collector is off: what it takes depends on all that the process holds. The runs make the same calls,
and of each call the least time counts: what an interrupt took from one run it does not take from all.
"""

import argparse
import csv
import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentcache.cost import CostModel, CostProfile
from agentcache.model import (
    Block,
    BlocksEvicted,
    BlocksStored,
    Event,
    Key,
    Stop,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy import make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.residency import Residency
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

COST = CostModel(CostProfile(c_lin=3.33e-5, c_att=6.55e-10), 16)
CONTEXTS, TOOLS, HELD = 3000, 32, 1000
BLOCKS, SHARED = 64, 16  # of a context; the first are those of all
POOL = 40_000
STEP_S, RUNNING = 0.05, 16
COLUMNS = ["policy", "admission", "call", "steps", "calls", "mean_us", "p999_us", "longest_ms"]


class Load:
    """A host of the core without an engine: each step ends a turn or two, starts as many, and times every call."""

    def __init__(self, policy: str, admission: str, seed: int) -> None:
        self.core = Residency(make_policy(policy, COST, POOL), POOL, admission=parse_admission(admission))
        self.draw = random.Random(seed)
        self.took: dict[str, list[float]] = {}
        self.now = 0.0
        self.turns = 0
        self.seen: set[int] = set()
        self.free = [Block(number, None, 0) for number in range(POOL)]
        self.resident: dict[Key, Block] = {}
        self.references: Counter[Key] = Counter()
        self.running: dict[str, tuple[int, tuple[Key, ...]]] = {}
        self.due = [(self.draw.expovariate(CONTEXTS * STEP_S), number) for number in range(CONTEXTS)]

    def timed(self, call: str, do: Callable[..., Any], *args: Any) -> Any:
        begun = time.thread_time()
        result = do(*args)
        self.took.setdefault(call, []).append(time.thread_time() - begun)
        return result

    def observe(self, event: Event) -> None:
        self.timed(f"observe {type(event).__name__}", self.core.observe, event, self.now)

    def hold(self, turns: int) -> None:
        """As many turns of new jobs as are to be held: they come behind all others, and nobody makes room for them."""
        for number in range(turns):
            keys = tuple(f"held{number}:{index}" for index in range(BLOCKS))
            self.core.observe(TurnArrived(f"held{number}", keys, f"held{number}", order_key=1), self.now)

    def step(self) -> None:
        self.now += STEP_S
        for turn in self.draw.sample(sorted(self.running), min(len(self.running), self.draw.randrange(3))):
            self.end(turn)
        self.timed("admit", self.core.admit, self.now)
        while len(self.running) < RUNNING:
            self.begin(self.draw.randrange(CONTEXTS))

    def begin(self, number: int) -> None:
        self.turns += 1
        self.seen.add(number)
        turn, job = f"turn{self.turns}", f"job{number}"
        keys = tuple(f"all:{i}" if i < SHARED else f"{job}:{i}" for i in range(BLOCKS))
        self.observe(TurnArrived(turn, keys, job, job))
        self.timed("rank", self.core.rank, turn)
        found = [self.resident[key] for key in keys if key in self.resident]
        idle = [block for block in found if not self.references[block.key]]
        self.timed("acquire", self.core.acquire, idle, self.now)
        self.references.update(keys)
        missing = [key for key in keys if key not in self.resident]
        if (need := len(missing) - len(self.free)) > 0:
            victims = self.timed("victims", self.core.victims, need, self.now)
            assert victims is not None
            for block in victims:
                del self.resident[block.key]
            self.free += victims
            self.observe(BlocksEvicted(tuple(block.key for block in victims)))
        for key in missing:
            block = self.resident[key] = self.free.pop()
            block.key, block.index = key, int(key.partition(":")[2])
        self.observe(BlocksStored(tuple(missing)))
        gaps = ((0, 16 * len(missing)),) if missing else ((16 * BLOCKS - 1, 16 * BLOCKS),)
        self.observe(TurnScheduled(turn, 16 * BLOCKS, 16 * len(found), 0, 0, gaps))
        self.running[turn] = number, keys

    def end(self, turn: str) -> None:
        number, keys = self.running.pop(turn)
        last = self.draw.random() < 0.02
        self.observe(TurnFinished(turn, keys, Stop.TOOL_USE, f"tool{number % TOOLS}", last or None))
        self.references.subtract(keys)
        idle = [self.resident[key] for key in reversed(keys) if not self.references[key]]
        self.timed("release", self.core.release, idle, self.now)


def run(policy: str, admission: str, steps: int, seed: int) -> dict[str, list[float]]:
    load = Load(policy, admission, seed)
    while len(load.free) > BLOCKS or len(load.seen) < CONTEXTS:  # before anything counts: a pool that is full
        load.step()
    load.hold(HELD)
    load.step()
    load.took.clear()
    gc.collect()
    gc.disable()
    for _ in range(steps):
        load.step()
    gc.enable()
    load.core.check()
    held = load.core.admission.held_turns if load.core.admission else 0
    assert held in (0, HELD) or admission != "working-set", f"{held} turns are held, {HELD} were to be"
    return load.took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/results/stretch.csv"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for policy, admission in (("return-index", "working-set"), ("return-index", "fcfs"), ("asymcache", "working-set")):
        runs = [run(policy, admission, options.steps, options.seed) for _ in range(options.runs)]
        for call in sorted(runs[0]):
            took = sorted(map(min, zip(*(of[call] for of in runs), strict=True)))
            rows.append(
                {
                    "policy": policy,
                    "admission": admission,
                    "call": call,
                    "steps": options.steps,
                    "calls": len(took),
                    "mean_us": round(1e6 * sum(took) / len(took), 1),
                    "p999_us": round(1e6 * took[int(0.999 * (len(took) - 1))], 1),
                    "longest_ms": round(1e3 * took[-1], 3),
                }
            )
            print(*rows[-1].values(), flush=True)
    host = describe_host()
    origin = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": options.seed}
    new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *origin])
        if new:
            writer.writeheader()
        writer.writerows({**row, **origin} for row in rows)


if __name__ == "__main__":
    main()
