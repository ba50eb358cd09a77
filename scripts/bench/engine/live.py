"""Admission on the live engine, and what the simulator makes of the same replay.

    OMP_NUM_THREADS=1 python scripts/bench/engine/live.py --out docs/results/live.csv

The flags of `make demo` at three pressures: stock vLLM against `return-index` with working-set admission, or other
contenders against the first of them, seed by seed. The simulator gets the engine's step times as `agentcache profile`
measures them, which this does first. What else runs on the same cores slows the engine down and not the simulator.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from agentcache.files import write_csv
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

TRACE = "workloads/data/cc_weka.cut.jsonl.zst"
HOST = {"--sessions": 30, "--max-calls": 12, "--max-ctx": 64000, "--slots": 14, "--tokens-per-block": 1}
POOLS = {2: 2208, 3: 1472, 4: 1088}
"""Tokens of cache by the live/pool that they make."""
TIME_SCALE, MAX_BATCHED = 0.05, 512
LABELS = ("mean", "p90")


def run(*words: object) -> None:
    command = [sys.executable, "-c", "from agentcache.cli.main import main; main()", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def replay(engine: str, pool: int, seed: int, profile: Path, policy: str, admission: str) -> dict[str, object]:
    """One row of `agentcache replay`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        flags = {
            **HOST,
            "--engine": engine,
            "--cache-tokens": pool,
            "--time-scale": TIME_SCALE,
            "--max-batched-tokens": MAX_BATCHED,
            "--seeds": seed,
            "--policies": policy,
            "--admission": admission,
            "--profile": profile,
            "--json": out,
        }
        run("replay", TRACE, *(word for flag in flags.items() for word in flag))
        (row,) = json.loads(out.read_text())["runs"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--live-pool", default="2,3,4")
    parser.add_argument("--contenders", nargs="+", default=["vllm-lru @ fcfs", "return-index @ working-set"])
    parser.add_argument("--profile", type=Path, help="step times of this engine; default: measured now")
    given = parser.parse_args()
    contenders = [contender.split(" @ ") for contender in given.contenders]
    profile = given.profile or Path(tempfile.mkdtemp()) / "profile.json"
    if not given.profile:
        run("profile", "--out", profile, "--max-batched-tokens", MAX_BATCHED, "--points", 60)
    machine = describe_host()
    rows = []
    for ratio in map(int, given.live_pool.split(",")):
        for seed in map(int, given.seeds.split(",")):
            stock: dict[str, dict[str, float]] = {}
            for policy, admission in contenders:
                row: dict[str, object] = {"live_pool": ratio, "policy": policy, "admission": admission, "seed": seed}
                found = {
                    engine: replay(engine, POOLS[ratio], seed, profile, policy, admission) for engine in ("vllm", "sim")
                }
                for engine, result in found.items():
                    latency = result["job_latency_s"]
                    first = stock.setdefault(engine, latency)
                    for label in LABELS:
                        row[f"{engine}_{label}_s"] = round(latency[label], 3)
                        row[f"{engine}_{label}_ratio"] = round(latency[label] / first[label], 4)
                    row[f"{engine}_cached_percent"] = round(100 * result["cached_tokens"] / result["prompt_tokens"], 2)
                    row[f"{engine}_ttft_mean_s"] = round(result["ttft_s"]["all"]["mean"], 4)
                row["sim_to_engine"] = round(row["sim_mean_s"] / row["vllm_mean_s"], 4)
                row |= {"errors": found["vllm"]["errors"], "commit": commit()}
                rows.append(row | {"cpu_model": machine["cpu"], "cores": machine["cores"]})
                print({k: v for k, v in row.items() if k not in ("commit", "cpu_model")}, flush=True)
                if given.out:
                    write_csv(given.out, rows)
    for ratio in given.live_pool.split(","):
        for policy, admission in contenders[1:]:
            ours = [row for row in rows if (row["live_pool"], row["policy"]) == (int(ratio), policy)]
            found = median(row["vllm_mean_ratio"] for row in ours if row["admission"] == admission)
            print(f"live/pool {ratio}: {policy} @ {admission} {found:.2f} of {given.contenders[0]}")


if __name__ == "__main__":
    main()
