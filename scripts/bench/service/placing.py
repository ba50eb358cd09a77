"""What the service's parts do for one report, one placed turn and one look, and how that grows with the contexts known.

    python scripts/bench/service/placing.py --out docs/results/placing.csv

The directory as its actor runs it and an ingress with its router, without network or Ray: processor time of the thread,
in microseconds, the sizes one after another in rounds, so that all meet the same machine; median and mean of a round,
the least of the rounds each. Time passes as if 5,000 events a second came.
"""

import argparse
import csv
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

from service import ENGINES, TENANTS, Fleet
from starlette.requests import Request

from agentcache.api.messages import Report, RetainJob, StartTool, decode, encode
from agentcache.service.config import ServiceConfig
from agentcache.service.directory.directory import Directory, DirectoryConfig
from agentcache.service.front.ingress import Ingress
from agentcache.service.front.tenants import Tenants
from agentcache.service.front.watch import CONTEXTS, learn
from agentcache.service.router import ResidencyRouter
from agentcache.service.routing.call import Plan, RoutedCall
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

BATCH, RATE, PART_S = 16, 5000.0, 0.5
BUDGET_SHARE = 0.9
"""Of what is resident: the tenants are kept to so much of it, so that reports evict too."""


class Service:
    """A directory that knows so many contexts, as its actor keeps it."""

    def __init__(self, policy: str, contexts: int, seed: int) -> None:
        self.fleet = Fleet(contexts, seed)
        tokens = int(BUDGET_SHARE * sum(self.fleet.tokens) / TENANTS)
        config = DirectoryConfig(policy=policy, heartbeat_s=3600.0, budget_tokens=tokens, max_pages=1 << 22)
        self.directory, self.now = Directory(config), 0.0
        self._parted = 0.0
        for body in self.fleet.fill():
            self.report(body)
        self._turns = self.fleet.turns(BATCH)
        self.rng = Random(seed)

    def report(self, body: bytes) -> None:
        self.now += BATCH / RATE
        encode(self.directory.report(decode(body, Report), self.now))

    def job(self) -> tuple[str, str]:
        number = self.rng.randrange(len(self.fleet.tokens))
        return f"tenant{number % TENANTS}", f"session-{number:08d}"

    def works(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        body = next(self._turns)
        yield "report", lambda: self.report(body)
        tenant, job = self.job()
        yield "explain", lambda: self.directory.explain(tenant, job, self.now)
        lease = RetainJob(job=job, ttl_s=5.0)
        yield "retain", lambda: self.directory.apply(lease, tenant, self.now)
        tool = StartTool(job=job, tool="bash")
        yield "tool", lambda: self.directory.apply(tool, tenant, self.now)
        if self.now - self._parted > PART_S:  # what the actor does twice a second
            self._parted = self.now
            yield "tick", self._tick
            yield "snapshot", lambda: self.directory.snapshot(None, CONTEXTS, self.now)
            yield "snapshot of a tenant", lambda: self.directory.snapshot(tenant, 100, self.now)

    def _tick(self) -> None:
        self.directory.tick(self.now)
        gc.collect(1)
        gc.freeze()


class Nobody:
    """No replica answers here."""

    def send(self, call: RoutedCall, plan: Plan, session: str | None) -> Any: ...

    async def metrics(self) -> list[tuple[str, str, float]]:
        return []


class Front:
    """An ingress and its router that know so many jobs, of which some are open."""

    def __init__(self, contexts: int, service: Service, seed: int) -> None:
        self.ingress = Ingress(ServiceConfig(model="none"), Nobody(), Tenants([]))
        self.router: Any = ResidencyRouter.__new__(ResidencyRouter)
        self.router.initialize_state()
        stats = {"rates": (1e-5, 1e-10), "waiting_s": {"other": 0.1}, "open": {"other": 3}}
        self.replicas = [
            SimpleNamespace(replica_id=SimpleNamespace(unique_id=f"e{n}"), routing_stats=stats) for n in range(ENGINES)
        ]
        self.rng, self.contexts, self.service = Random(seed), contexts, service
        self._numbers = 0
        self._open: list[Plan] = []
        self._parted = 0.0
        for number in range(contexts):
            job, plan = self._asked(number)
            self.ingress.homes.served(job, f"e{number % ENGINES}", plan.tokens, service.now)

    def _asked(self, number: int) -> tuple[str, Plan]:
        said = [{"role": "user", "content": f"{number} " * 200}] * (1 + self.rng.randrange(8))
        raw = json.dumps({"model": "m", "messages": said}).encode()
        headers = [(b"x-session-id", b"tenant%d/session-%08d" % (number % TENANTS, number))] if number % 2 else []
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        job, plan, _ = self.ingress._prepare(None, Request(scope), raw)
        return job, plan

    def _turn(self, number: int) -> None:
        job, plan = self._asked(number)
        self._numbers += 1
        metadata = SimpleNamespace(internal_request_id=str(self._numbers), session_id="")
        asked = SimpleNamespace(args=[], kwargs={"plan": plan}, metadata=metadata)
        with suppress(StopIteration):
            self.router.choose_replicas(self.replicas, asked).send(None)
        self.ingress.homes.served(job, plan.replica, plan.tokens, self.service.now)
        self._open.append(plan)
        if len(self._open) > 4 * ENGINES:
            ended = self._open.pop(0)
            ended.started = ended.ended = True

    def works(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        number = self.rng.randrange(self.contexts)
        yield "turn", lambda: self._turn(number)
        if self.service.now - self._parted > PART_S:
            self._parted = self.service.now
            seen = self.service.directory.snapshot(None, CONTEXTS, self.service.now)
            yield "learn", lambda: learn(self.ingress.homes, seen, self.service.now)
            yield "lost", lambda: self.ingress.homes.lost(f"e{number % ENGINES}")


def timed(parts: list[Any], steps: int) -> dict[str, tuple[float, float]]:
    """Microseconds of each work, in the median and in the mean."""
    took: dict[str, list[float]] = defaultdict(list)
    for _ in range(steps):
        for part in parts:
            for name, work in part.works():
                begun = time.thread_time()
                work()
                took[name].append(1e6 * (time.thread_time() - begun))
    return {name: (median(each), fmean(each)) for name, each in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", default=["return-index"])
    parser.add_argument("--contexts", nargs="+", type=int, default=[1_000, 100_000])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    gc.disable()  # as the actor does
    rows = []
    for policy in options.policies:
        sizes: dict[int, list[Any]] = {}
        for contexts in options.contexts:
            service = Service(policy, contexts, options.seed)
            sizes[contexts] = [service, Front(contexts, service, options.seed)]
            gc.collect()
            gc.freeze()
        least: dict[tuple[int, str], tuple[float, float]] = {}
        for _ in range(options.rounds):
            for contexts, parts in sizes.items():
                for name, took in timed(parts, options.steps).items():
                    before = least.get((contexts, name), took)
                    least[contexts, name] = min(took[0], before[0]), min(took[1], before[1])
        for (contexts, name), took in least.items():
            row = {"policy": policy, "work": name, "contexts": contexts}
            of = least[options.contexts[0], name]
            row |= {"median_us": round(took[0], 1), "mean_us": round(took[1], 1)}
            row |= {"growth": round(took[0] / of[0], 2), "mean_growth": round(took[1] / of[1], 2)}
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    host = describe_host()
    about = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": options.seed}
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows(row | about for row in rows)


if __name__ == "__main__":
    main()
