"""What one residency actor sustains: events a second at which latency, and the memory of many live contexts.

    python scripts/bench/service/service.py --out docs/results/service.csv

Engines report to a real actor in a Ray cluster on this machine, at a fixed rate whatever it does (open loop): latency
is from when a report was due to its reply. An event is one context that changed: a turn came or went, and some of what
was resident is gone. The feeder shares the machine's cores with the actor.
"""

import argparse
import asyncio
import csv
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from agentcache.api.messages import ContextState, Report, encode
from agentcache.service.actor import ensure_service, stop_service
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

ENGINES, TENANTS, NAMESPACE = 64, 16, "bench"
FILL = 64


class Fleet:
    """Contexts of lognormal length, spread over engines, each of which reports its own."""

    def __init__(self, contexts: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self.tokens = [min(int(self._rng.lognormvariate(9.9, 1.0)), 131_072) for _ in range(contexts)]
        self._seqs = [0] * ENGINES

    def report(self, engine: int, states: list[ContextState]) -> bytes:
        self._seqs[engine] += 1
        seq = self._seqs[engine]
        return encode(Report(engine=f"e{engine}", epoch="1", seq=seq, full=seq == 1, contexts=tuple(states)))

    def state(self, number: int, state: str, start: int = 0) -> ContextState:
        name, tokens = f"tenant{number % TENANTS}/session-{number:08d}", self.tokens[number]
        return ContextState(name, name, state, "tool", "bash", 3, tokens, ((start, tokens),))  # type: ignore[arg-type]

    def fill(self) -> Iterator[bytes]:
        for first in range(0, len(self.tokens), FILL):
            numbers = range(first, min(first + FILL, len(self.tokens)))
            yield self.report(first // FILL % ENGINES, [self.state(number, "idle") for number in numbers])

    def turns(self, batch: int) -> Iterator[bytes]:
        """Reports of turns that come, and then go with a hole at the front, of contexts drawn at random."""
        while True:
            group = self._rng.randrange(len(self.tokens) // FILL)
            first = group * FILL + self._rng.randrange(max(FILL - batch, 0) + 1)
            numbers = range(first, first + min(batch, FILL))
            hole = self._rng.randrange(4)  # what has been evicted at the front, in quarters
            for state in ("running", "idle"):
                states = [self.state(number, state, self.tokens[number] * hole // 4) for number in numbers]
                yield self.report(group % ENGINES, states)


async def load(service: Any, fleet: Fleet, batch: int, rate: float, seconds: float) -> dict[str, float]:
    """Offer `rate` events a second for a while; latencies in ms."""
    latencies: list[float] = []

    async def send(body: bytes, due: float) -> None:
        await service.exchange.remote(body)
        latencies.append(1e3 * (time.monotonic() - due))

    turns, sent = fleet.turns(batch), []
    begun = due = time.monotonic()
    while due < begun + seconds:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        sent.append(asyncio.ensure_future(send(next(turns), due)))
        due += batch / rate
    await asyncio.gather(*sent)
    took = time.monotonic() - begun
    latencies.sort()
    return {
        "done_per_s": len(latencies) * batch / took,
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[int(0.99 * len(latencies))],
        "max_ms": latencies[-1],
    }


async def rows(policy: str, contexts: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    service = ensure_service({"policy": policy, "heartbeat_s": 3600.0}, NAMESPACE)
    fleet = Fleet(contexts, options.seed)
    empty = (await service.snapshot.remote()).memory_bytes
    for body in fleet.fill():
        await service.exchange.remote(body)
    found = []
    for batch in options.batches:
        for rate in options.rates:
            measured = await load(service, fleet, batch, rate, options.seconds)
            snapshot = await service.snapshot.remote(None, 0)
            known = sum(engine.contexts for engine in snapshot.engines)
            memory = {
                "memory_mib": snapshot.memory_bytes / 2**20,
                "over_empty_mib": (snapshot.memory_bytes - empty) / 2**20,
            }
            row = {"policy": policy, "live_contexts": known, "batch": batch, "offered_per_s": rate}
            found.append(row | {name: round(value, 2) for name, value in (measured | memory).items()})
            print(found[-1], file=sys.stderr, flush=True)
            await asyncio.sleep(1)
    stop_service(NAMESPACE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", default=["return-index", "asymcache", "asymcache:lifespan_s=30"])
    parser.add_argument("--contexts", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rates", nargs="+", type=float, default=[1000, 5000])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    host = describe_host()
    about = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": options.seed}
    with options.out.open("w", newline="") as file:
        writer = None
        for policy in options.policies:
            for contexts in options.contexts:
                for row in asyncio.run(rows(policy, contexts, options)):
                    writer = writer or csv.DictWriter(file, [*row, *about])
                    if file.tell() == 0:
                        writer.writeheader()
                    writer.writerow(row | about)
                    file.flush()
    ray.shutdown()


if __name__ == "__main__":
    main()
