"""What admission and order gain on the live CPU engine where host memory is below the pool, beside the same engine.

    OMP_NUM_THREADS=1 python scripts/bench/engine/tiers.py --out docs/results/tiers-live.csv

The jobs of `levels.py` on its Llama, whose blocks are reused behind holes; a pool of a third and of a fifth of what the
open contexts take, host memory of two pools. Each seed runs all contenders one after the other, in a process each, and
ratios are taken within the seed. Copies are real, and their processor time counts like that of steps.

`tier` is the same engine with host memory, vLLM's order of turns and LRU in both levels; `tier-index` has our order in
both; `admit-tier` holds jobs that do not fit besides; `admit` does so without host memory.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from levels import MODELS, Clock, jobs, origin, play, pool_blocks, served, start

from agentcache.cost.prior import ModelShape
from agentcache.files import write_csv
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache.vllm_plugin.launch.recipes import RECIPES

MODEL = "demo-llama"
HOST_POOLS = 2.0
CONTENDERS: dict[str, tuple[str, str, bool]] = {
    "tier": ("lru", "fcfs", True),
    "tier-index": ("return-index", "fcfs", True),
    "admit-tier": ("return-index", "working-set", True),
    "admit": ("return-index", "working-set", False),
}
"""Policy of both levels, admission, and whether there is host memory."""


def serve(contender: str, live_pool: float, seed: int) -> dict[str, Any]:
    """One row, in this process."""
    prepare(threads=1)
    clock = Clock()
    from agentcache.vllm_plugin.lab.look_inside import LookInside

    made, shape = jobs(seed), ModelShape.from_hf_config(RECIPES[MODEL])
    blocks = pool_blocks(MODEL, made, live_pool)
    policy, admission, tier = CONTENDERS[contender]
    options: dict[str, Any] = {"policy": policy, "admission": admission}
    if tier:
        block_bytes = 4 * shape.kv_values * MODELS[MODEL].block_tokens
        options |= {"host_policy": policy, "host_memory": (HOST_POOLS * blocks + 0.5) * block_bytes / 2**30}
    engine = start(MODEL, blocks, options)
    view = LookInside(engine)
    porter = view.scheduler.porter
    places = porter.tier.capacity_blocks if porter else 0
    assert places == (int(HOST_POOLS * blocks + 0.5) if tier else 0), f"{places} places, of a pool of {blocks}"
    row = {"blocks": blocks, "host_blocks": places, **play(engine, made, clock)}
    seen = view.host.meter.values
    row["loaded_tokens"] = int(seen.get(("agentcache_tier_loaded_tokens_total",), 0))
    ways = ("down", "up")
    row["copy_s"] = round(sum(seen.get(("agentcache_tier_copy_seconds_total", way), 0.0) for way in ways), 3)
    view.check()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--live-pool", default="3,5")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="the first one is the base of ratios")
    parser.add_argument("--serve", nargs=3, metavar=("CONTENDER", "LIVE_POOL", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        contender, live_pool, seed = given.serve
        print(json.dumps(serve(contender, float(live_pool), int(seed))))
        return
    where = origin()
    rows: list[dict[str, Any]] = []
    for live_pool in map(float, given.live_pool.split(",")):
        for seed in map(int, given.seeds.split(",")):
            base: dict[str, Any] = {}
            for contender in given.contenders.split(","):
                found = served(__file__, contender, live_pool, seed)
                base = base or found
                cell = {"model": MODEL, "live_pool": live_pool, "contender": contender, "seed": seed, **found}
                for name in ("mean", "p90"):
                    cell[f"{name}_to_tier"] = round(found[f"{name}_s"] / base[f"{name}_s"], 4)
                rows.append(cell | where)
                print(cell, flush=True)
                if given.out:
                    write_csv(given.out, rows)
        for contender in given.contenders.split(","):
            of = [r["mean_to_tier"] for r in rows if (r["live_pool"], r["contender"]) == (live_pool, contender)]
            print(f"live/pool {live_pool:g}: {contender} {median(of):.2f}, from {min(of):.2f} to {max(of):.2f}")


if __name__ == "__main__":
    main()
