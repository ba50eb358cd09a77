"""A million turns through the books of an engine and of the service: the size of every map, and the process's memory.

    python scripts/bench/soak/soak.py --out docs/results/soak.csv
    python scripts/bench/soak/soak.py --part engine --turns 1000 10000 --policy asymcache --admission resident-first

Nothing computes: turns are drawn and go through our own objects, as an engine's scheduler (`soak_engine`) and a cluster
(`soak_service`) would call them. At each count of turns every map that can be reached from them is counted and held
against its bound; one without a stated bound may have 64 entries. Exits with 1 if any is over it, or if memory at the
last count is above 1.05 times that at the one before, where the last is a million or more.
"""

import argparse
import asyncio
import csv
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soak_engine
import soak_service
from soak_sizes import sizes

from agentcache.api.messages import Report, RetainJob, decode, encode
from agentcache.service.directory.directory import Directory, DirectoryConfig
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

MEMORY = "RSS, MiB"
UNNAMED = 64
GROWTH = 1.05

Bounds = dict[str, tuple[int, str]]


class Loop:
    """Carries an engine's reports to a directory in this process; somebody there takes leases."""

    def __init__(self, seed: int) -> None:
        self._directory = Directory(DirectoryConfig(budget_tokens=1200, lease_tokens=400, lease_s=20.0), 1.0)
        self._rng = random.Random(seed)
        self._seconds = 0.0

    def carry(self, report: bytes) -> bytes:
        told = decode(report, Report)
        self._seconds += 0.3
        reply = self._directory.report(told, self._seconds)
        if told.contexts and self._rng.random() < 0.3:
            tenant, _, job = self._rng.choice(told.contexts).job.partition("/")
            self._directory.apply(RetainJob(job=job or "nobody", ttl_s=10.0), tenant, self._seconds)
        return encode(reply)

    def close(self) -> None:
        pass


def engine(options: argparse.Namespace) -> Iterator[tuple[int, list[Any]]]:
    """Turns so far and what holds the books, at each count asked for."""
    carrier = Loop(options.seed) if options.link else None
    soaked = soak_engine.Engine(options.seed, options.policy, options.admission, options.stats, carrier)
    for turns in options.turns:
        while soaked.turns < turns:
            soaked.step()
        soaked.check()
        yield soaked.turns, soaked.roots


def service(options: argparse.Namespace) -> Iterator[tuple[int, list[Any]]]:
    cluster = soak_service.Cluster(options.seed)
    loop = asyncio.new_event_loop()
    loop.time = lambda: cluster.seconds  # type: ignore[method-assign]

    async def until(turns: int) -> None:
        while cluster.turns < turns:
            await cluster.step()

    for turns in options.turns:
        loop.run_until_complete(until(turns))
        cluster.check()
        yield cluster.turns, cluster.roots
    loop.close()


PARTS = {"engine": (engine, soak_engine.BOUNDS), "service": (service, soak_service.BOUNDS)}


def resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def soak(part: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of (turns, map, entries, bound), and what is wrong with them."""
    run, bounds = PARTS[part]
    rows: list[dict[str, Any]] = []
    memory: list[float] = []
    begun = time.thread_time()
    for turns, roots in run(options):
        memory.append(resident_mib())
        spent_us = (time.thread_time() - begun) / turns * 1e6
        print(f"{part}: {turns} turns, {memory[-1]:.1f} MiB, {spent_us:.0f} us a turn", file=sys.stderr, flush=True)
        rows.append({"turns": turns, "map": MEMORY, "entries": round(memory[-1], 1), "bound": "", "why": ""})
        for name, entries in sorted(sizes(*roots).items()):
            bound, why = bounds.get(name, (UNNAMED, "no bound is stated"))
            rows.append({"turns": turns, "map": name, "entries": entries, "bound": bound, "why": why})
    wrong = [
        f"{part}: {row['map']} has {row['entries']} entries after {row['turns']} turns, {row['bound']} are its bound "
        f"({row['why']})"
        for row in rows
        if row["bound"] != "" and row["entries"] > row["bound"]
    ]
    if len(memory) > 1 and options.turns[-1] >= 10**6 and memory[-1] > GROWTH * memory[-2]:
        wrong.append(f"{part}: memory has grown from {memory[-2]:.1f} to {memory[-1]:.1f} MiB")
    return rows, wrong


def show(rows: list[dict[str, Any]]) -> None:
    """A line a map: its entries at each count of turns, its bound, and why that is one."""
    counts = sorted({row["turns"] for row in rows})
    of = {(row["map"], row["turns"]): row for row in rows}
    print(f"{'after turns':40}" + "".join(f"{count:>10}" for count in counts) + f"{'bound':>9}")
    for name in dict.fromkeys(row["map"] for row in rows):
        found = [of.get((name, count)) for count in counts]
        last = next(row for row in reversed(found) if row)
        entries = "".join(f"{row['entries'] if row else '-':>10}" for row in found)
        print(f"{name:40}{entries}{last['bound']:>9}  {last['why']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", nargs="+", type=int, default=[10**4, 10**5, 10**6])
    parser.add_argument("--policy", default="return-index")
    parser.add_argument("--admission", default="fcfs")
    parser.add_argument(
        "--stats", action="store_true", help="bring the gauges up to date in each step, as stat loggers have it done"
    )
    parser.add_argument("--link", action="store_true", help="report to a directory, whose commands are carried out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wrong: list[str] = []
    about = {"policy": options.policy, "admission": options.admission, "seed": options.seed, "commit": commit()}
    about["cpu_model"] = describe_host()["cpu"]
    for part in options.part:
        rows, found = soak(part, options)
        show(rows)
        memory = " -> ".join(str(row["entries"]) for row in rows if row["map"] == MEMORY)
        print(f"{part}: {memory} MiB, {'; '.join(found) or 'every map within its bound'}")
        wrong += found
        if options.out:
            new = not options.out.exists()
            with options.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, ["part", *rows[0], *about])
                if new:
                    writer.writeheader()
                writer.writerows({"part": part, **row, **about} for row in rows)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
