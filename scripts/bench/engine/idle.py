"""What AgentCache costs where it cannot help: a pool that never evicts, against stock vLLM, in pairs.

    python scripts/bench/engine/idle.py --out docs/results/idle.csv

Four parts. `schedule` and `update`: stock scheduler and ours, without a model, in one process and step by step in
turn, in processor time: 64 decoding requests. `look-up`, `admit` and `release`, in the same way: a prompt of 128K
tokens that is resident from its first block to its last. `crowded`: one request decodes, the next one does not fit, a
thousand wait. `throughput`: two live CPU engines, the same prompts to one and then to the other.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from agentcache.files import write_csv
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

BLOCK, RUNNING, PROMPT, LONG = 16, 64, 512, 131_072
STEPS = 256  # of a pair: sixteen blocks of each request
CROWDED, BLOCKED, WAITING = 10_000, 8_000, 1_000  # blocks of a pool, and of a request that does not fit; requests
POLICY = "return-index"


# Schedulers without a model


class Bare:
    """A scheduler, driven as the engine drives it, by outputs that say the same token for every request."""

    def __init__(
        self, ours: bool, max_len: int, blocks: int, batch_tokens: int, options: dict[str, Any] | None = None
    ) -> None:
        import torch
        from vllm import EngineArgs
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from agentcache.vllm_plugin.launch.command_line import plugin_args
        from agentcache.vllm_plugin.launch.tiny_models import model_dir

        config = EngineArgs(
            model_dir("tiny-llama"),
            max_model_len=max_len,
            max_num_batched_tokens=batch_tokens,
            max_num_seqs=2 * RUNNING,
            block_size=32,  # a CPU engine takes no other; the scheduler is told below
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            **(plugin_args({"policy": POLICY, **(options or {})}) if ours else {}),
        ).create_engine_config()
        config.cache_config.block_size = BLOCK
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
        hash_fn = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
        init_none_hash(hash_fn)
        self.hasher = get_request_block_hasher(BLOCK, hash_fn)
        self.scheduler = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )

    def add(self, name: str, prompt: list[int], tokens: int, job: str | None = None) -> Any:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=tokens, ignore_eos=True, extra_args={"job_id": job} if job else None)
        params.update_from_generation_config({}, 1)
        request = Request(name, prompt, params, None, block_hasher=self.hasher)
        self.scheduler.add_request(request)
        return request

    def step(self) -> tuple[float, float]:
        """One step; seconds in `schedule()` and in `update_from_output()`."""
        from vllm.v1.outputs import ModelRunnerOutput

        begun = time.thread_time()
        output = self.scheduler.schedule()
        scheduled = time.thread_time() - begun
        names = list(output.num_scheduled_tokens)
        # Only the step that completes a prompt gives a token.
        done = [
            [7] if request.num_computed_tokens >= request.num_tokens else []
            for request in map(self.scheduler.requests.__getitem__, names)
        ]
        result = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, sampled_token_ids=done)
        begun = time.thread_time()
        self.scheduler.update_from_output(output, result)
        return scheduled, time.thread_time() - begun

    def drain(self) -> None:
        while self.scheduler.requests:
            self.step()


def decoding(pairs: int, rng: random.Random) -> Iterator[tuple[str, float, float]]:
    """Seconds of a step (the median of a pair) of stock and ours, while 64 requests decode."""
    sides = [Bare(ours, 4096, 2 * RUNNING * (PROMPT + 2 * STEPS) // BLOCK, 8192) for ours in (False, True)]
    for pair in range(pairs):
        for side in sides:
            side.scheduler.reset_prefix_cache()
        for row in range(RUNNING):
            prompt = [rng.randrange(3, 500) for _ in range(PROMPT + row)]  # so that blocks fill at different steps
            for side in sides:
                side.add(f"{pair}-{row}", prompt, STEPS + 64)
        while any(side.scheduler.waiting or len(side.scheduler.running) < RUNNING for side in sides):
            for side in sides:
                side.step()
        for side in sides:
            side.step(), side.step()
        gc.collect()
        spent: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
        for number in range(STEPS):
            for which in (0, 1) if number % 2 else (1, 0):
                for part, seconds in enumerate(sides[which].step()):
                    spent[which][part].append(seconds)
        for part, name in enumerate(("schedule", "update")):
            yield name, median(spent[0][part]), median(spent[1][part])
        for side in sides:
            side.drain()


def resident(pairs: int, rng: random.Random) -> Iterator[tuple[str, float, float]]:
    """Seconds of stock and ours with a prompt of 128K tokens that is wholly resident."""
    sides = [Bare(ours, LONG + 64, LONG // BLOCK + 256, LONG) for ours in (False, True)]
    prompt = [rng.randrange(3, 500) for _ in range(LONG)]
    for side in sides:
        side.add("first", prompt, 1)
        side.drain()
    for pair in range(pairs):
        spent: dict[str, list[float]] = {"look-up": [0.0] * 2, "admit": [0.0] * 2, "release": [0.0] * 2}
        for which in (0, 1) if pair % 2 else (1, 0):
            side = sides[which]
            request = side.add(f"again {pair}", prompt, 1)
            gc.collect()
            times = []
            for _ in range(5):
                begun = time.thread_time()
                found = side.scheduler.kv_cache_manager.get_computed_blocks(request)
                times.append(time.thread_time() - begun)
            assert found[1] == LONG - BLOCK, found[1]
            spent["look-up"][which] = median(times)
            spent["admit"][which], spent["release"][which] = side.step()
            assert not side.scheduler.requests
        for name, (stock, ours) in spent.items():
            yield name, stock, ours


def crowded(pairs: int, rng: random.Random) -> Iterator[tuple[str, float, float]]:
    """Seconds of a step in which one request decodes, the next one does not fit, and a thousand wait behind it.

    The one that does not fit has been there before; a part of it is resident yet. In ours the thousand are held.
    """
    sides = [Bare(ours, LONG + 64, CROWDED, LONG, {"admission": "working-set"}) for ours in (False, True)]
    first, second = ([rng.randrange(3, 500) for _ in range(BLOCK * blocks)] for blocks in (4000, BLOCKED))
    others = [[rng.randrange(3, 500) for _ in range(4 * BLOCK)] for _ in range(WAITING)]
    from vllm.v1.request import RequestStatus

    for pair in range(pairs):
        for side in sides:
            side.scheduler.reset_prefix_cache()
            side.add(f"{pair} before", second, 1, "giant")
            side.drain()
            side.add(f"{pair} first", first, 2 * STEPS, "giant")
            while not side.scheduler.running or side.scheduler.running[0].is_prefill_chunk:
                side.step()
            side.add(f"{pair} second", second, 1, "giant")
            for number, prompt in enumerate(others):
                side.add(f"{pair} {number}", prompt, 1, f"other {number}")
            side.step(), side.step()
        gc.collect()
        spent: list[list[float]] = [[], []]
        for number in range(STEPS):
            for which in (0, 1) if number % 2 else (1, 0):
                spent[which].append(sides[which].step()[0])
        for side in sides:
            assert len(side.scheduler.running) == 1 and len(side.scheduler.waiting) > WAITING
        yield "crowded", median(spent[0]), median(spent[1])
        for side in sides:
            side.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
            side.drain()


# Live engines


def serve(ours: bool) -> None:
    """A child: starts an engine, then serves one batch for each seed that it reads; answers with tokens a second."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    prepare(threads=1)  # more would wait for each other wherever the machine has other work
    from vllm import EngineArgs, LLMEngine, SamplingParams

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("demo-llama"),
            dtype="float32",
            max_model_len=1024,
            block_size=32,
            num_gpu_blocks_override=1024,
            max_num_seqs=RUNNING,
            enforce_eager=True,
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            **(plugin_args({"policy": POLICY}) if ours else {}),
        )
    )
    for line in sys.stdin:
        rng, requests = random.Random(int(line)), 48
        params = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True, detokenize=False)
        prompts = [[rng.randrange(3, 500) for _ in range(rng.choice((64, 128, 256)))] for _ in range(requests)]
        engine.reset_prefix_cache()
        begun, tokens = time.perf_counter(), []
        for number, prompt in enumerate(prompts):
            engine.add_request(f"{line.strip()}-{number}", {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            tokens += [
                (int(o.request_id.split("-")[1]), list(o.outputs[0].token_ids)) for o in engine.step() if o.finished
            ]
        seconds = time.perf_counter() - begun
        print(
            json.dumps({"rate": sum(map(len, prompts)) / seconds, "tokens": sorted(tokens)}), file=answers, flush=True
        )


def throughput(pairs: int, seed: int) -> Iterator[tuple[str, float, float]]:
    """Seconds a token of stock and ours; their ratio inverted is that of the throughputs."""
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", which], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for which in ("stock", "ours")
    ]

    def ask(which: int, number: int) -> dict[str, Any]:
        child = children[which]
        assert child.stdin and child.stdout
        print(number, file=child.stdin, flush=True)
        answer: dict[str, Any] = json.loads(child.stdout.readline())
        return answer

    try:
        for which in (0, 1):
            ask(which, 0)  # the first calls of a process are slow
        for pair in range(pairs):
            answers = {which: ask(which, seed + pair) for which in ((0, 1) if pair % 2 else (1, 0))}
            assert answers[0]["tokens"] == answers[1]["tokens"], "outputs differ"
            yield "throughput", 1 / answers[0]["rate"], 1 / answers[1]["rate"]
    finally:
        for child in children:
            child.communicate()


GOALS = {
    "throughput": (0.98, "at least"),
    "schedule": (1.05, "at most"),
    "look-up": (1.5, "at most"),
    "crowded": (1.5, "at most"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("schedulers", "throughput"), help="one part of it")
    parser.add_argument("--serve", choices=("stock", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve == "ours")
        return

    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    prepare(threads=1)
    machine = describe_host()
    where = {"commit": commit(), "cpu_model": machine["cpu"], "cores": machine["cores"], "seed": given.seed}
    rng = random.Random(given.seed)
    parts: list[Iterator[tuple[str, float, float]]] = []
    if given.only != "throughput":
        parts += [decoding(given.pairs, rng), resident(given.pairs, rng), crowded(given.pairs, rng)]
    if given.only != "schedulers":
        parts += [throughput(given.pairs, given.seed)]
    rows = []
    for part in parts:
        for name, stock, ours in part:
            ratio = stock / ours if name == "throughput" else ours / stock
            times = {"stock_us": round(1e6 * stock, 2), "ours_us": round(1e6 * ours, 2)}
            rows.append({"what": name, "policy": POLICY, **times, "ratio": round(ratio, 4), **where})
    for name in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == name]
        stock, ours, ratio = (median(row[column] for row in mine) for column in ("stock_us", "ours_us", "ratio"))
        goal = "goal {1} {0}".format(*GOALS[name]) if name in GOALS else ""
        print(
            f"{name:10} stock {stock:10.1f} us  ours {ours:10.1f} us  ratio {ratio:6.3f} median of {len(mine)}  {goal}"
        )
    if given.out:
        write_csv(given.out, rows)


if __name__ == "__main__":
    main()
