"""What an order of eviction costs: victims, and a long context that becomes evictable.

    python scripts/bench/core/policies.py [--out docs/results/policies-speed.csv]

Beside our policies stand stock vLLM's free queue (a linked list in the order of release) and the plainest version of
the return index, which scores every block at each eviction. Percentiles are of single calls, so the timer is
`perf_counter` and not a benchmarking framework, whose rounds average them away.
"""

import argparse
import csv
import gc
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, Context, Standing, Stop, TurnArrived, TurnFinished
from agentcache.policy import make_policy
from agentcache.policy.survival import Survival, bucket
from agentcache.residency import Residency
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

COST = CostModel(CostProfile(c_lin=3.33e-5, c_att=6.55e-10), 16)
POLICIES = ("lru", "lru-holes", "arc", "pensieve", "asymcache", "return-index")
IDS = itertools.count()
LONG = 2000  # blocks of the context that comes and goes
COLUMNS = ["case", "contexts", "blocks", "calls", "p50_us", "p99_us", "max_us"]


def teach(survival: Survival, now: float) -> None:
    """Enough pauses that classes have curves."""
    draw = random.Random(2)
    for i in range(1000):
        standing = Standing.TOOL if i % 2 else Standing.END_TURN
        context = Context(f"seen{i}", "", standing=standing, depth=3)
        survival.paused(context, now)
        survival.returned(context, now + draw.expovariate(0.2 if i % 2 else 0.005))


def fill(policy: str, contexts: int, blocks: int) -> tuple[Residency, float]:
    """A residency in which `contexts` contexts of `blocks` blocks pause, one more each tenth of a second."""
    residency = Residency(make_policy(policy, COST, contexts * blocks + 2 * LONG), contexts * blocks + 2 * LONG, 2**20)
    draw, now = random.Random(1), 0.0
    for number in range(contexts):
        now += draw.expovariate(10)
        turn(residency, number, blocks, now, draw.choice([Stop.TOOL_USE, Stop.END_TURN]))
    teach(residency.survival, now)
    gc.collect()
    gc.freeze()
    return residency, now


def turn(residency: Residency, number: int, blocks: int, now: float, stop: Stop) -> list[Block]:
    stream = random.Random(number).randbytes(32 * blocks)  # digests, as vLLM names blocks
    keys = tuple(stream[start : start + 32] for start in range(0, len(stream), 32))
    residency.observe(TurnArrived(f"t{number}", keys, f"j{number}", f"c{number}"), now)
    residency.observe(TurnFinished(f"t{number}", keys, stop), now)
    held = [Block(next(IDS), key, index) for index, key in enumerate(keys)]
    held.reverse()
    residency.release(held, now)
    return held


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def row(case: str, contexts: int, blocks: int, times: list[float]) -> dict[str, object]:
    times.sort()
    p99 = times[int(0.99 * len(times))]
    numbers = [f"{value:.1f}" for value in (statistics.median(times), p99, times[-1])]
    print(
        f"{case:32} {contexts:6} x {blocks:4}  p50 {numbers[0]:>9} us  p99 {numbers[1]:>9}  max {numbers[2]:>9}",
        flush=True,
    )
    return dict(zip(COLUMNS, (case, contexts, blocks, len(times), *numbers), strict=True))


def measure(policy: str, contexts: int, blocks: int, calls: int) -> list[dict[str, object]]:
    residency, now = fill(policy, contexts, blocks)
    residency.victims(1, now)  # values are brought up to date once after a rebuild of the curves
    evict, comes, goes = [], [], []
    for _ in range(calls):
        now += 0.05
        evict.append(timed(partial(residency.policy.victims, 64, frozenset(), now)))
    residency, now = fill(policy, contexts, blocks)
    residency.victims(1, now)
    for number in range(50):
        held = turn(residency, contexts + number, LONG, now, Stop.TOOL_USE)
        goes.append(timed(partial(residency.acquire, held[::-1], now)))
        comes.append(timed(partial(residency.release, held, now)))
        residency.acquire(held[::-1], now)
    return [
        row(f"{policy}: victims(64)", contexts, blocks, evict),
        row(f"{policy}: {LONG} blocks released", contexts, blocks, comes),
        row(f"{policy}: {LONG} blocks used", contexts, blocks, goes),
    ]


def plain(contexts: int, blocks: int, calls: int) -> list[dict[str, object]]:
    """The return index as its formula reads: every evictable block is scored at each eviction."""
    residency, now = fill("lru", contexts, blocks)
    survival = residency.survival
    evictable = {block for context in residency.contexts for key in context.chain for block in residency._copies(key)}

    def value(block: Block) -> float:
        rates = (survival.rates(c)[bucket(now - c.idle_since)] for c in block.owners)
        return sum(rates) * COST.block_seconds(block.index)

    def victims() -> None:
        for block in sorted(evictable, key=value)[:64]:
            evictable.remove(block)

    return [row("plain O(n): victims(64)", contexts, blocks, [timed(victims) for _ in range(calls)])]


def stock(contexts: int, blocks: int, calls: int) -> list[dict[str, object]]:
    from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue, KVCacheBlock

    queue = FreeKVCacheBlockQueue([KVCacheBlock(i) for i in range(contexts * blocks)])
    gc.collect()
    gc.freeze()
    evict = [timed(partial(queue.popleft_n, 64)) for _ in range(calls)]
    comes, goes = [], []
    for _ in range(50):
        held = queue.popleft_n(LONG)
        comes.append(timed(partial(queue.append_n, held)))
        goes.append(timed(partial(deque, map(queue.remove, held), 0)))
        queue.append_n(held)
    return [
        row("stock vLLM: victims(64)", contexts, blocks, evict),
        row(f"stock vLLM: {LONG} blocks released", contexts, blocks, comes),
        row(f"stock vLLM: {LONG} blocks used", contexts, blocks, goes),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results/policies-speed.csv"))
    parser.add_argument("--calls", type=int, default=1000)
    args = parser.parse_args()
    rows = stock(5000, 200, args.calls)
    for policy in POLICIES:
        rows += measure(policy, 5000, 200, args.calls)
    rows += plain(500, 200, 5)
    for contexts, blocks in ((1250, 200), (2500, 200), (5000, 100), (5000, 50)):  # growth, against 5000 x 200
        rows += measure("return-index", contexts, blocks, args.calls)
    host = describe_host()
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "commit", "cpu_model", "cores", "seed"])
        writer.writeheader()
        for line in rows:
            writer.writerow(line | {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": 1})


if __name__ == "__main__":
    main()
