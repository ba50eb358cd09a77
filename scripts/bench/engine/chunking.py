"""Adaptive chunking against fixed chunks on one live CPU engine: the same arrivals under each rule, in turn.

    agentcache profile --out profile.json
    python scripts/bench/engine/chunking.py --profile profile.json --tpot-ms 100 --out docs/results/chunking.csv

Requests arrive by a Poisson process whatever the engine does; prompts are of 256 to 2,048 tokens and share nothing,
answers are short, so that a long step beside them shows. One engine serves all rows, round by round.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from agentcache.files import write_csv
from agentcache.model import Event, StepTimed
from agentcache.policy.chunking import parse_chunking
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

MODEL, BLOCK, MAX_LEN, BUDGET = "demo-llama", 32, 4096, 2048
PROMPTS = (256, 1024, 2048)
ANSWERS = (16, 32, 64)
FIXED = (256, 512, 1024, 2048)
MARGIN = 1.1


@dataclass
class Call:
    """A request: when it arrived, and when each of its tokens came; seconds since the start of the row."""

    arrived_s: float
    prompt: list[int]
    answer_tokens: int
    token_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.arrived_s

    @property
    def tpot_s(self) -> float:
        return (self.token_s[-1] - self.token_s[0]) / (len(self.token_s) - 1)


def arrivals(n: int, rate: float, seed: int) -> list[Call]:
    rng = random.Random(seed)
    now, calls = 0.0, []
    for _ in range(n):
        now += rng.expovariate(rate)
        calls.append(Call(now, [rng.randrange(3, 500) for _ in range(rng.choice(PROMPTS))], rng.choice(ANSWERS)))
    return calls


def rules(tpot_ms: float) -> dict[str, tuple[str, int]]:
    """Name of a row -> rule, and token budget of a step. A fixed chunk is the budget itself, as in stock vLLM."""
    fixed = {f"fixed {n}": ("off", n) for n in FIXED}
    return {
        f"adaptive {tpot_ms:g} ms": (f"adaptive:tpot={tpot_ms}ms", BUDGET),
        f"adaptive {tpot_ms:g} ms, no slack": (f"adaptive:tpot={tpot_ms}ms,slack=off", BUDGET),
        **fixed,
        "paper": (f"paper:base={BUDGET},threshold=1", BUDGET),
    }


def start(profile: str) -> Any:
    prepare()
    from vllm import EngineArgs, LLMEngine

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    return LLMEngine.from_engine_args(
        EngineArgs(
            model_dir(MODEL),
            dtype="float32",
            max_model_len=MAX_LEN,
            block_size=BLOCK,
            num_gpu_blocks_override=2000,
            max_num_batched_tokens=BUDGET,
            max_num_seqs=64,
            enforce_eager=True,
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            **plugin_args({"policy": "lru-holes", "profile": profile}),
        )
    )


def serve(engine: Any, calls: list[Call]) -> float:
    """Run the calls at their times; returns the seconds it took."""
    from vllm import SamplingParams

    begun, waiting = time.perf_counter(), list(enumerate(calls))[::-1]
    while waiting or engine.has_unfinished_requests():
        now = time.perf_counter() - begun
        while waiting and waiting[-1][1].arrived_s <= now:
            number, call = waiting.pop()
            params = SamplingParams(temperature=0.0, max_tokens=call.answer_tokens, ignore_eos=True, detokenize=False)
            engine.add_request(str(number), {"prompt_token_ids": call.prompt}, params)
        if not engine.has_unfinished_requests():
            time.sleep(max(waiting[-1][1].arrived_s - now, 0.0))
            continue
        for output in engine.step():
            call = calls[int(output.request_id)]
            now = time.perf_counter() - begun
            call.token_s += [now] * (len(output.outputs[0].token_ids) - len(call.token_s))
    engine.reset_prefix_cache()
    return time.perf_counter() - begun


def quantile(values: Sequence[float], q: float, least: int = 1) -> float | None:
    """Nearest rank; None from fewer than `least` values."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if len(ordered) >= least else None


def measured(calls: list[Call], seconds: float, steps: list[StepTimed]) -> dict[str, Any]:
    ttft, tpot = [call.ttft_s for call in calls], [1e3 * call.tpot_s for call in calls]
    gaps = [1e3 * (b - a) for call in calls for a, b in zip(call.token_s, call.token_s[1:], strict=False)]
    wrong = [abs(step.predicted_s / step.seconds - 1) for step in steps if step.predicted_s]
    row = {
        "ttft_mean_s": fmean(ttft),
        "ttft_p99_s": quantile(ttft, 0.99, 100),
        "tpot_mean_ms": fmean(tpot),
        "tpot_p99_ms": quantile(tpot, 0.99, 100),
        "itl_p99_ms": quantile(gaps, 0.99, 100),
        "tokens_per_s": sum(len(call.prompt) + len(call.token_s) for call in calls) / seconds,
        "chunk_p50_tokens": quantile([step.tokens for step in steps if step.tokens and step.decodes], 0.5),
        "step_error_p50": quantile(wrong, 0.5),
        "step_error_p95": quantile(wrong, 0.95),
    }
    return {name: None if value is None else round(value, 4) for name, value in row.items()}


def verdict(rows: list[dict[str, Any]], target_ms: float) -> list[str]:
    """The adaptive row against every fixed chunk that keeps the target, on means over the rounds."""

    def mean(name: str, column: str) -> float:
        return fmean(row[column] for row in rows if row["rule"] == name and row[column] is not None)

    names = list(dict.fromkeys(row["rule"] for row in rows))
    adaptive = names[0]
    lines = []
    for name in names:
        kept = "keeps" if mean(name, "tpot_p99_ms") <= MARGIN * target_ms else "misses"
        lines.append(
            f"{name:30} TTFT {mean(name, 'ttft_mean_s'):7.3f} s  TPOT mean {mean(name, 'tpot_mean_ms'):6.1f} "
            f"p99 {mean(name, 'tpot_p99_ms'):6.1f} ms, {kept} {MARGIN:g} x {target_ms:g} ms  "
            f"{mean(name, 'tokens_per_s'):6.0f} tokens/s"
        )
    rivals = [n for n in names if n.startswith("fixed") and mean(n, "tpot_p99_ms") <= MARGIN * target_ms]
    beaten = all(mean(adaptive, "ttft_mean_s") <= mean(n, "ttft_mean_s") for n in rivals)
    met = beaten and mean(adaptive, "tpot_p99_ms") <= MARGIN * target_ms
    lines.append(
        f"goal {'met' if met else 'NOT met'}; fixed chunks that keep the target: {', '.join(rivals) or 'none'}"
    )
    return lines


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True, help="of this engine, by `agentcache profile`")
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--tpot-ms", type=float, default=100.0)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--requests", type=int, default=120, help="of each row and round; a p99 needs 100")
    parser.add_argument("--seeds", default="1,2,3", help="one round each, about 8 minutes")
    given = parser.parse_args()

    engine = start(str(Path(given.profile).resolve()))
    from agentcache.vllm_plugin.lab.look_inside import LookInside

    view, steps = LookInside(engine), []

    def hear(event: Event, now: float) -> None:
        if isinstance(event, StepTimed):
            steps.append(event)

    view.listen(hear)
    serve(engine, arrivals(8, 100.0, 0))  # the first calls of a process are slow
    machine = describe_host()
    where, rows = {"commit": commit(), "cpu_model": machine["cpu"], "cores": machine["cores"]}, []
    for seed in map(int, given.seeds.split(",")):
        for name, (rule, budget) in rules(given.tpot_ms).items():
            view.scheduler.pacer.rule = parse_chunking(rule)
            view.scheduler.max_num_scheduled_tokens = budget
            steps.clear()
            calls = arrivals(given.requests, given.rate, seed)
            seconds = serve(engine, calls)
            row = {"rule": name, "target_ms": given.tpot_ms, "rate": given.rate, "requests": given.requests}
            rows.append(row | {"seed": seed} | measured(calls, seconds, steps) | where)
            print(", ".join(f"{key} {rows[-1][key]}" for key in list(rows[-1])[:-3]), file=sys.stderr, flush=True)
            if given.out:
                write(given.out, rows)
    if given.requests >= 100:
        print("\n".join(verdict(rows, given.tpot_ms)))


if __name__ == "__main__":
    main()
