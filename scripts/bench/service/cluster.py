"""Sixteen simulated replicas behind five routers, on the jobs of the coding trace.

    python scripts/bench/service/cluster.py --out docs/results/cluster.csv

Every replica is the queueing simulation with the very residency, policy and admission of an engine, and `residency` is
the decision of the service's own router. `residency-selfish` is the same without the price that others pay for a
rebuild; with `residency-sticky` jobs stay where it has sent their first turn. The pools of all replicas together hold
the contexts of all open jobs once (`ratio` 1), or half of them (2). Each cell runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median
from typing import Any

from agentcache.cost import CostProfile
from agentcache.files import write_csv
from agentcache_workloads.cluster.cluster import run_cluster
from agentcache_workloads.replay.accounts.metrics import job_latency_s, spread, ttft_s
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.engines.queueing import STEP_TOKENS
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import RunSpec
from agentcache_workloads.results.config import Workload
from agentcache_workloads.results.workload import jobs_of, mean_live_blocks, turns_of

WORKLOAD = Workload(trace="cc_weka.public.jsonl.zst", half="all", calls=None, max_ctx=65_536, jobs=834)
ROUTERS = ("residency", "residency-selfish", "residency-sticky", "session", "default")
REPLICAS, SLOTS, BLOCK_SIZE = 16, 128, 512
POLICY, ADMISSION, PROFILE = "return-index", "working-set", "h20-like"
POOLS = {1: 220_160, 2: 110_080}
"""Tokens of each replica, by the ratio of what is live to what all of them hold."""


def live_tokens(seed: int) -> float:
    """The mean of unique tokens in the contexts of open jobs, by recorded times, while every slot has a job."""
    _, jobs = jobs_of(WORKLOAD, seed)
    turns, _ = turns_of(WORKLOAD, seed, SLOTS, "closed", BLOCK_SIZE, True)
    first: dict[str | None, float] = {}
    for turn in turns:
        first.setdefault(turn.job, turn.start_s)
    last_job_s = max(first.values())
    contexts = {turn.id: turn.context for job in jobs for turn in job.turns}
    return mean_live_blocks([turn for turn in turns if turn.start_s <= last_job_s], contexts) * BLOCK_SIZE


def measure(router: str, pool: int, seed: int) -> dict[str, Any]:
    meta, jobs = jobs_of(WORKLOAD, seed)
    assert meta.block_size
    begun = time.process_time()
    run = run_cluster(
        RunSpec(
            engine="sim",
            policy=POLICY,
            admission=ADMISSION,
            cache_blocks=pool // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            tokens_per_block=meta.block_size,
            slots=SLOTS,
            max_batched_tokens=STEP_TOKENS,
            seed=seed,
        ),
        jobs,
        Renderer(meta, meta.block_size, 1000, 0),
        CostProfile.named(PROFILE),
        router=router,
        replicas=REPLICAS,
    )
    cpu_s = time.process_time() - begun
    latency = spread([job_latency_s(job) - job.paused_s for job in run.jobs], (50, 90, 99), top=False)
    prompt_tokens = sum(call.prompt_tokens for call in run.calls)
    return {
        "jobs": len(run.jobs),
        "calls": len(run.calls),
        "live_pool": live_tokens(seed) / (REPLICAS * pool),
        "prompt_tokens": prompt_tokens,
        "cached_ratio": sum(call.cached_tokens for call in run.calls) / prompt_tokens,
        "job_mean_s": latency["mean"],
        "job_p90_s": latency["p90"],
        "job_p99_s": latency["p99"],
        "ttft_returning_s": spread(ttft_s(call) for call in run.calls if call.kind != "first")["mean"],
        "ttft_first_s": spread(ttft_s(call) for call in run.calls if call.kind == "first")["mean"],
        "held_mean_s": fmean(call.held_s or 0.0 for call in run.calls),
        "busiest_share": max(Counter(run.placed.values()).values()) / len(run.placed),
        "moved_ratio": run.moves / len(run.calls),
        "preemptions": sum(call.preemptions or 0 for call in run.calls),
        "makespan_s": run.makespan_s,
        "cpu_s": cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--ratios", default="1,2", help="live tokens to those of all pools")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        router, pool, seed = args.only.split(",")
        print(json.dumps(measure(router, int(pool), int(seed))))
        return
    host = describe_host()
    where: dict[str, Any] = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    rows: list[dict[str, Any]] = []
    for ratio in map(int, args.ratios.split(",")):
        for router in args.routers.split(","):
            for seed in map(int, args.seeds.split(",")):
                words = [sys.executable, __file__, "--only", f"{router},{POOLS[ratio]},{seed}"]
                found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
                row = {"ratio": ratio, "router": router, "pool_tokens": POOLS[ratio], "replicas": REPLICAS} | found
                row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
                rows.append(row | {"seed": seed} | where)
                print(rows[-1], flush=True)
                if args.out:
                    write_csv(args.out, rows)
    for ratio, router in dict.fromkeys((row["ratio"], row["router"]) for row in rows):
        mine = [row for row in rows if (row["ratio"], row["router"]) == (ratio, router)]
        shown = ("cached_ratio", "job_mean_s", "job_p90_s", "job_p99_s", "ttft_returning_s", "makespan_s")
        print(ratio, router, {name: round(median(row[name] for row in mine), 3) for name in shown})


if __name__ == "__main__":
    main()
