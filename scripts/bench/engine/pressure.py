"""What reuse behind holes gains: TTFT of a returning context of which some blocks were evicted.

    python scripts/bench/engine/pressure.py --out docs/results/pressure.csv

`front`: the first quarter, half or three quarters of the context are gone, which to stock vLLM is all of it: it
computes from the hole on. `scattered`: a quarter is gone, in 1, 4 or 16 holes of the same size, the first at the front;
several of them are rebuilt in one step (fused) or one a step (sequential). Three live CPU engines answer each question
in turn; the same blocks are evicted in all, and their answers must be equal.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from agentcache.files import write_csv
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

MODEL, BLOCK, BUDGET = "demo-llama", 32, 2048
CONTEXTS, SHARES, HOLES = (2048, 4096, 8192), (0.25, 0.5, 0.75), (1, 4, 16)
NEW = 64  # tokens that the returning turn adds
ENGINES = ("stock", "fused", "sequential")


def front(blocks: int, share: float) -> list[int]:
    return list(range(int(blocks * share)))


def scattered(blocks: int, share: float, holes: int) -> list[int]:
    """Block indices of equal holes at equal distances."""
    each, period = int(blocks * share) // holes, blocks // holes
    return [hole * period + index for hole in range(holes) for index in range(each)]


def start(which: str) -> Any:
    """One of the three engines, whose pool holds the longest context."""
    from vllm import EngineArgs, LLMEngine

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    ours = {"policy": "lru-holes", "mode": which, "max_segments": max(HOLES) + 1}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model_dir(MODEL),
            dtype="float32",
            max_model_len=max(CONTEXTS) + 256,
            hf_overrides={"max_position_embeddings": 2 * max(CONTEXTS)},
            block_size=BLOCK,
            num_gpu_blocks_override=max(CONTEXTS) // BLOCK + 64,
            max_num_batched_tokens=BUDGET,
            max_num_seqs=4,
            enforce_eager=True,
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            **({} if which == "stock" else plugin_args(ours)),
        )
    )


def serve(which: str) -> None:
    """A child: starts an engine, then answers one question a line: {prompt seed, context, evicted block indices}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    prepare(threads=1)  # more would wait for each other wherever the machine has other work
    from vllm import SamplingParams

    from agentcache.vllm_plugin.lab.look_inside import LookInside

    engine = start(which)
    view = LookInside(engine)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
    asked, resident = 0, None
    for line in sys.stdin:
        question = json.loads(line)
        context, rng = question["context"], random.Random(question["seed"])
        prompt = [rng.randrange(3, 500) for _ in range(context + NEW)]

        def ask(tokens: list[int]) -> tuple[float, Any, int]:
            nonlocal asked
            asked += 1
            begun, first, steps = time.perf_counter(), None, 0
            engine.add_request(str(asked), {"prompt_token_ids": tokens}, params)
            while engine.has_unfinished_requests():
                steps += first is None
                for output in engine.step():
                    first, last = first or time.perf_counter() - begun, output
            assert first is not None
            return first, last, steps

        if resident != (question["seed"], context):
            engine.reset_prefix_cache()
            ask(prompt[: context + 1])  # the last block of a prompt is only known with a token behind it
            resident = question["seed"], context
        gone = {*question["evicted"], *range(context // BLOCK, len(view.pool.blocks))}
        view.evict(
            block.block_id
            for block in view.pool.blocks
            if block.block_hash is not None and block.block_hash_num_tokens // BLOCK - 1 in gone
        )
        ttft_s, output, steps = ask(prompt)
        answer = {"ttft_s": ttft_s, "steps": steps, "cached": output.num_cached_tokens}
        print(json.dumps(answer | {"tokens": list(output.outputs[0].token_ids)}), file=answers, flush=True)


class Engines:
    """The three engines, each in a process of its own."""

    def __init__(self) -> None:
        self._children = {
            which: subprocess.Popen(
                [sys.executable, __file__, "--serve", which], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for which in ENGINES
        }

    def ask(self, which: str, **question: Any) -> dict[str, Any]:
        child = self._children[which]
        assert child.stdin and child.stdout
        print(json.dumps(question), file=child.stdin, flush=True)
        answer: dict[str, Any] = json.loads(child.stdout.readline())
        return answer

    def close(self) -> None:
        for child in self._children.values():
            child.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)), help="tokens")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    machine = describe_host()
    where = {"commit": commit(), "cpu_model": machine["cpu"], "cores": machine["cores"], "seed": given.seed}
    engines, rows, begun = Engines(), [], time.perf_counter()
    try:
        for context in map(int, given.contexts.split(",")):
            blocks = context // BLOCK
            cells = [("front", share, 1, front(blocks, share)) for share in SHARES]
            cells += [("scattered", 0.25, holes, scattered(blocks, 0.25, holes)) for holes in HOLES]
            for repeat in range(-1, given.repeats):  # the first round of a shape is slow, and not kept
                for what, share, holes, evicted in cells if repeat >= 0 else cells[:1]:
                    answers = {
                        which: engines.ask(which, seed=given.seed, context=context, evicted=evicted)
                        for which in (ENGINES if repeat % 2 else ENGINES[::-1])
                    }
                    assert len({tuple(answer["tokens"]) for answer in answers.values()}) == 1, "outputs differ"
                    for which, answer in answers.items() if repeat >= 0 else ():
                        cell = {"what": what, "context": context, "missing": share, "holes": holes, "engine": which}
                        found = {"repeat": repeat, "cached": answer["cached"], "steps": answer["steps"]}
                        ttft = {"ttft_s": round(answer["ttft_s"], 4)}
                        ratio = {"to_stock": round(answer["ttft_s"] / answers["stock"]["ttft_s"], 4)}
                        rows.append(cell | found | ttft | ratio | where)
    finally:
        engines.close()
    print(f"{'':22} {'missing':>7} {'holes':>5}   " + "".join(f"{which:>26}" for which in ENGINES))
    for key in dict.fromkeys((row["what"], row["context"], row["missing"], row["holes"]) for row in rows):
        mine = [row for row in rows if (row["what"], row["context"], row["missing"], row["holes"]) == key]
        line = f"{key[0]:10} {key[1]:5} tokens {key[2]:7.0%} {key[3]:5}   "
        for which in ENGINES:
            of = [row for row in mine if row["engine"] == which]
            ttft, ratio = (median(row[column] for row in of) for column in ("ttft_s", "to_stock"))
            line += f"{ttft:9.3f} s {ratio:5.2f} x {of[0]['steps']:3} st"
        print(line)
    print(f"{time.perf_counter() - begun:.0f} s")
    if given.out:
        write_csv(given.out, rows)


if __name__ == "__main__":
    main()
