"""How long the simulators take for the whole coding-agent trace, and how that grows with contexts and with blocks.

    python scripts/bench/core/simulator.py --out docs/results/simulator.csv --plot docs/results/simulator.svg

One policy and one pool; each line in a process of its own, on one core, in processor time, without reading the trace.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from agentcache.cost import CostModel, CostProfile
from agentcache.files import write_csv
from agentcache.sim.fixed import run_fixed
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.engines.queueing import STEP_TOKENS, simulate
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import RunSpec
from agentcache_workloads.results.config import Workload
from agentcache_workloads.results.workload import jobs_of, turns_of

POLICY, ADMISSION, POOL_TOKENS, SLOTS, SEED = "return-index", "working-set", 1_000_000, 16, 1
CALLS = (1_900, 3_800, 7_600, 15_213)
BLOCK_SIZES = (512, 256, 128, 64)


def measure(engine: str, calls: int, block_size: int) -> dict[str, object]:
    workload = Workload(trace="cc_weka.public.jsonl.zst", half="all", calls=calls, max_ctx=10**7)
    cost, pool = CostModel(CostProfile.named("h20-like"), block_size), POOL_TOKENS // block_size
    meta, jobs = jobs_of(workload, SEED)
    turns, _ = turns_of(workload, SEED, SLOTS, "closed", block_size, True)
    touched = sum(len(turn.keys) for turn in turns)
    contexts = len({turn.context for job in jobs for turn in job.turns})
    start = time.process_time()
    if engine == "fixed":
        run_fixed(turns, POLICY, cost, pool)
    else:
        assert meta.block_size
        simulate(
            RunSpec(
                engine="sim",
                policy=POLICY,
                admission=ADMISSION,
                cache_blocks=pool,
                block_size=block_size,
                tokens_per_block=meta.block_size,
                slots=SLOTS,
                max_batched_tokens=STEP_TOKENS,
            ),
            jobs,
            Renderer(meta, meta.block_size, 1000, 0),
            cost.profile,
        )
    return {
        "engine": engine,
        "calls": len(turns),
        "contexts": contexts,
        "block_size": block_size,
        "touched_blocks": touched,
        "cpu_s": round(time.process_time() - start, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def grown(rows: list[dict[str, object]]) -> None:
    """Beside each row, its time over that of the row of half the calls or half the blocks, if there is one."""
    for row in rows:
        by = next((r for r in rows if r["engine"] == row["engine"] and _doubles(r, row)), None)
        row["growth"] = round(row["cpu_s"] / by["cpu_s"], 2) if by else ""
        row["growth_of"] = ("contexts" if by["block_size"] == row["block_size"] else "blocks") if by else ""


def _doubles(small: dict[str, object], large: dict[str, object]) -> bool:
    same_size = small["block_size"] == large["block_size"]
    more_calls = 1.9 < large["calls"] / small["calls"] < 2.1
    return (same_size and more_calls) or (
        large["calls"] == small["calls"] and small["block_size"] == 2 * large["block_size"]
    )


def plot(rows: list[dict[str, object]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    finest = min(row["block_size"] for row in rows)
    largest = max(row["calls"] for row in rows)
    axes = figure.subplots(1, 2)
    panels = (
        ("contexts", [r for r in rows if r["block_size"] == finest]),
        ("touched_blocks", [r for r in rows if r["calls"] == largest]),
    )
    for axis, (name, chosen) in zip(axes, panels, strict=True):
        for engine in ("fixed", "queueing"):
            line = sorted((r[name], r["cpu_s"]) for r in chosen if r["engine"] == engine)
            axis.plot(*zip(*line, strict=True), marker="o", label=engine)
        axis.set(xscale="log", yscale="log", xlabel=name.replace("_", " "), ylabel="processor time, s")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--plot", type=Path, help="SVG to write")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        engine, calls, block_size = given.only.split(",")
        print(json.dumps(measure(engine, int(calls), int(block_size))))
        return
    cells = [(engine, calls, 64) for engine in ("fixed", "queueing") for calls in CALLS]
    cells += [(engine, CALLS[-1], size) for engine in ("fixed", "queueing") for size in BLOCK_SIZES[:-1]]
    rows = []
    for cell in cells:
        words = [sys.executable, __file__, "--only", ",".join(map(str, cell))]
        rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], flush=True)
    grown(rows)
    machine = describe_host()
    origin = {"seed": SEED, "commit": commit(), "cpu_model": machine["cpu"], "cores": machine["cores"]}
    if given.out:
        write_csv(given.out, [row | origin for row in rows])
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
