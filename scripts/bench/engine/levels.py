"""What each level gains on the live CPU engine: stock vLLM, `admit` and `order` on three kinds of KV groups.

    OMP_NUM_THREADS=1 python scripts/bench/engine/levels.py --out docs/results/order-live.csv

24 drawn jobs of eight turns, 12 open at once, with pauses of half a second in the mean; a pool of a third of what the
open contexts take, counted as admission counts it at `order`; steps of 128 tokens, a sixth of a context. A model with
sliding windows, one with gated delta nets and a Llama; each seed runs all three contenders one after the other, in a
process each, and their ratio is taken within the seed.

Latencies are seconds of the engine's processor time and of the pauses while it idles, which are skipped: what else the
machine does does not count.
"""

import argparse
import heapq
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean, median
from typing import Any

from agentcache.files import write_csv
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

CONTENDERS = ("stock", "admit", "order")
WINDOW, MAX_LEN, LIVE_POOL = 128, 1536, 3.0
JOBS, TURNS, SLOTS, PAUSE_S, STEP = 24, 8, 12, 0.5, 128

Turn = tuple[list[int], float]


def jobs(seed: int) -> list[list[Turn]]:
    """Prompts of each job's turns, each with the pause behind it; all share a beginning."""
    rng = random.Random(seed)

    def words(count: int) -> list[int]:
        return [rng.randrange(3, 500) for _ in range(count)]

    made, system = [], words(128)
    for _ in range(JOBS):
        context, turns = system + words(rng.randrange(200, 500)), []
        for _ in range(TURNS):
            turns.append((context, rng.expovariate(1 / PAUSE_S)))
            context = context + words(rng.randrange(30, 110))
        made.append(turns)
    return made


@dataclass(frozen=True)
class Model:
    """A model's type of weights, tokens of a block, and KV groups of full attention, of windows and of states.

    A page of a model with states is at least a state.
    """

    dtype: str = "float32"
    block_tokens: int = 32
    full: int = 1
    windows: int = 0
    states: int = 0

    def return_blocks(self, tokens: int) -> int:
        """Blocks of all groups that a context takes of a pool, so that a return finds it and the reply has room."""
        window = 2 * ceil((WINDOW - 1) / self.block_tokens) + 1  # that of the prompt's end, and the running one
        return self.full * (tokens // self.block_tokens) + self.windows * window + self.states * 4


MODELS = {
    "demo-gemma3": Model(windows=5),
    "demo-qwen3-next": Model("bfloat16", 64, states=3),
    "demo-llama": Model(),
}


class Clock:
    """`time.monotonic` of the process that serves: its processor time, and what it would have slept."""

    def __init__(self) -> None:
        self._slept = 0.0
        time.monotonic = self.now

    def now(self) -> float:
        return time.process_time() + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += max(0.0, seconds)


def pool_blocks(model: str, made: list[list[Turn]], live_pool: float) -> int:
    """A pool that the contexts of open jobs exceed so many times."""
    taken = fmean(MODELS[model].return_blocks(len(prompt)) for turns in made for prompt, _ in turns)
    return int(SLOTS * taken / live_pool)


def start(model: str, blocks: int, ours: dict[str, Any] | None) -> Any:
    """An engine with so many blocks to use; `ours` are the options of the plug-in, None is stock vLLM."""
    from vllm import EngineArgs, LLMEngine

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    return LLMEngine.from_engine_args(
        EngineArgs(
            model_dir(model),
            dtype=MODELS[model].dtype,
            max_model_len=MAX_LEN,
            block_size=MODELS[model].block_tokens,
            num_gpu_blocks_override=blocks + 1,  # one is vLLM's null block
            max_num_batched_tokens=STEP,
            max_num_seqs=16,
            enforce_eager=True,
            enable_prefix_caching=True,
            use_tqdm_on_load=False,
            **({} if ours is None else plugin_args(ours)),
        )
    )


def play(engine: Any, made: list[list[Turn]], clock: Clock) -> dict[str, Any]:
    """The closed loop of `SLOTS` jobs; latencies in seconds."""
    from vllm import SamplingParams

    from agentcache.vllm_plugin.compat import RequestOutputKind

    begun: dict[int, float] = {}
    took: dict[int, float] = {}
    ready: list[tuple[float, int, int]] = []
    prompt_tokens = cached_tokens = 0

    def open_job() -> None:
        if (job := len(begun)) < len(made):
            begun[job] = clock.now()
            heapq.heappush(ready, (begun[job], job, 0))

    for _ in range(SLOTS):
        open_job()
    while len(took) < len(made):
        while ready and ready[0][0] <= clock.now():
            _, job, turn = heapq.heappop(ready)
            last = turn == len(made[job]) - 1
            params = SamplingParams(
                temperature=0.0,
                max_tokens=8,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args={"job_id": f"{job}", "is_last_step": last, "this_func_call": None if last else "bash"},
            )
            engine.add_request(f"{job}-{turn}", {"prompt_token_ids": made[job][turn][0]}, params)
        if not engine.has_unfinished_requests():
            clock.sleep(ready[0][0] - clock.now())
            continue
        for output in engine.step():
            job, turn = map(int, output.request_id.split("-"))
            prompt_tokens += len(made[job][turn][0])
            cached_tokens += output.num_cached_tokens or 0
            if turn + 1 < len(made[job]):
                heapq.heappush(ready, (clock.now() + made[job][turn][1], job, turn + 1))
            else:
                took[job] = clock.now() - begun[job]
                open_job()
    ordered = sorted(took.values())
    return {
        "jobs": len(ordered),
        "mean_s": round(fmean(ordered), 3),
        "p50_s": round(median(ordered), 3),
        "p90_s": round(ordered[int(0.9 * len(ordered))], 3),
        "cached_percent": round(100 * cached_tokens / prompt_tokens, 2),
    }


def serve(model: str, contender: str, seed: int) -> dict[str, Any]:
    """One row, in this process."""
    prepare(threads=1)
    clock = Clock()
    from agentcache.vllm_plugin.lab.look_inside import LookInside

    made = jobs(seed)
    blocks = pool_blocks(model, made, LIVE_POOL)
    engine = start(model, blocks, None if contender == "stock" else {"level": contender, "admission": "working-set"})
    view = LookInside(engine)
    level = str(view.host.level) if view.host else "stock"
    assert level == contender, f"the engine runs at {level}"
    assert view.scheduler.block_size == MODELS[model].block_tokens
    row = {"blocks": blocks, "block_tokens": view.scheduler.block_size, **play(engine, made, clock)}
    view.check()
    return row


def served(script: str, *words: object) -> dict[str, Any]:
    """The row that a script prints at last when it serves, in a process of its own."""
    command = [sys.executable, script, "--serve", *map(str, words)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return row


def origin() -> dict[str, Any]:
    """Where rows come from."""
    machine = describe_host()
    return {"commit": commit(), "cpu_model": machine["cpu"], "cores": machine["cores"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--serve", nargs=3, metavar=("MODEL", "CONTENDER", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        model, contender, seed = given.serve
        print(json.dumps(serve(model, contender, int(seed))))
        return
    where = origin()
    rows: list[dict[str, Any]] = []
    for model in given.models.split(","):
        for seed in map(int, given.seeds.split(",")):
            beside: dict[str, dict[str, Any]] = {}
            for contender in CONTENDERS:
                found = beside[contender] = served(__file__, model, contender, seed)
                cell = {"model": model, "live_pool": LIVE_POOL, "contender": contender, "seed": seed, **found}
                for other in ("stock", "admit"):
                    cell[f"to_{other}"] = round(found["mean_s"] / beside[other]["mean_s"], 4) if other in beside else ""
                cell["p90_to_stock"] = round(found["p90_s"] / beside["stock"]["p90_s"], 4)
                rows.append(cell | where)
                print(cell, flush=True)
                if given.out:
                    write_csv(given.out, rows)
        for contender in CONTENDERS[1:]:
            of = [row["to_stock"] for row in rows if (row["model"], row["contender"]) == (model, contender)]
            print(f"{model}: {contender} {median(of):.2f} of stock vLLM, from {min(of):.2f} to {max(of):.2f}")


if __name__ == "__main__":
    main()
