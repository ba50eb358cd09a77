"""The two replicas of `routing.py` in simulation: the same jobs, pools and admission, and more routers and seeds.

    python scripts/bench/service/routing_sim.py --out docs/results/routing-sim.csv

A step's time is assumed: about what a six-layer Llama takes on one thread of a CPU, and three times that, as on a
machine that does other things too. Cached tokens and moves hardly depend on it. Takes ten seconds.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

from routing import ADMISSION, FLAGS, JOBS, POOL, TIME_SCALE, TRACE

from agentcache.cost import CostProfile
from agentcache.files import write_csv
from agentcache_workloads.cluster.cluster import run_cluster
from agentcache_workloads.replay.accounts.metrics import job_latency_s, ttft_s
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.jobs.jobs import shuffled
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import RunSpec, Selection

ROUTERS = ("residency", "residency-selfish", "residency-sticky", "session", "default")
POOLS = (POOL, POOL // 4)
STEPS = {"c0": 0.03, "c_lin": 3e-4, "c_att": 1e-8, "c_dec": 1e-3, "c_kv": 1e-7}
SLOWDOWNS = (1, 3)


def measure(seeds: list[int]) -> Iterator[dict[str, Any]]:
    limits = {"sessions": JOBS["--sessions"], "max_calls": JOBS["--max-calls"], "max_ctx": JOBS["--max-ctx"]}
    plan = load_plan(TRACE, Selection(**limits))
    size = FLAGS["--block-size"]
    for slowdown in SLOWDOWNS:
        profile = CostProfile(**{name: slowdown * seconds for name, seconds in STEPS.items()})
        for pool in POOLS:
            for router in ROUTERS:
                for seed in seeds:
                    run = run_cluster(
                        RunSpec(
                            engine="sim",
                            policy="return-index",
                            admission=ADMISSION,
                            cache_blocks=pool // size,
                            block_size=size,
                            tokens_per_block=JOBS["--tokens-per-block"],
                            slots=JOBS["--slots"],
                            seed=seed,
                            time_scale=TIME_SCALE,
                            max_batched_tokens=FLAGS["--max-num-batched-tokens"],
                        ),
                        shuffled(plan.jobs, seed),
                        Renderer(plan.meta, JOBS["--tokens-per-block"], 32_000, seed),
                        profile,
                        router=router,
                        replicas=2,
                        max_seqs=FLAGS["--max-num-seqs"],
                    )
                    prompt_tokens = sum(call.prompt_tokens for call in run.calls)
                    yield {
                        "slowdown": slowdown,
                        "pool_tokens": pool,
                        "router": router,
                        "seed": seed,
                        "calls": len(run.calls),
                        "prompt_tokens": prompt_tokens,
                        "cached_ratio": sum(call.cached_tokens for call in run.calls) / prompt_tokens,
                        "job_mean_s": fmean(job_latency_s(job) - job.paused_s for job in run.jobs),
                        "ttft_mean_s": fmean(ttft_s(call) or 0.0 for call in run.calls),
                        "moves": run.moves,
                        "busiest_share": max(Counter(run.placed.values()).values()) / len(run.placed),
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    args = parser.parse_args()
    host = describe_host()
    where = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    found = measure([int(seed) for seed in args.seeds.split(",")])
    rows = [{k: round(x, 4) if isinstance(x, float) else x for k, x in (row | where).items()} for row in found]
    if args.out:
        write_csv(args.out, rows)
    keys = ("slowdown", "pool_tokens", "router")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in rows):
        mine = [row for row in rows if tuple(row[name] for name in keys) == key]
        shown = ("cached_ratio", "job_mean_s", "ttft_mean_s", "moves", "busiest_share")
        print(*key, {name: round(median(row[name] for row in mine), 3) for name in shown})


if __name__ == "__main__":
    main()
