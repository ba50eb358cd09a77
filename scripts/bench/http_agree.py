"""Our HTTP replayer beside `vllm bench serve`: the same server, the same requests at the same times, in pairs.

    python scripts/bench/http_agree.py --out docs/results/http-agree.csv

One `agentcache serve` on a CPU. A trace of single calls with Poisson arrivals is written twice, as ours and as vLLM's
`timed_trace`: lengths, shared blocks and times are equal, tokens are each tool's own. The cache is emptied before each
run. A row is a metric: the median of each tool's means over the pairs, and the median of the ratios within pairs.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx

from agentcache_workloads.readers.trace import Call, Meta, Session
from agentcache_workloads.readers.writer import write_trace
from agentcache_workloads.replay import http_engine
from agentcache_workloads.replay.metrics import tpot_s, ttft_s
from agentcache_workloads.replay.peers import Peer, Peers, started
from agentcache_workloads.replay.plan import Selection
from agentcache_workloads.replay.prepare import Options, prepare
from agentcache_workloads.replay.provenance import commit, describe_host
from agentcache_workloads.replay.spec import Remote

BLOCK, OUTPUT = 16, 24
FLAGS = [
    *("--port", "{port}", "--dtype", "float32", "--block-size", "32", "--num-gpu-blocks-override", "257"),
    *(
        "--max-model-len",
        "2048",
        "--max-num-batched-tokens",
        "512",
        "--enforce-eager",
        "--enable-prompt-tokens-details",
    ),
]
BENCH = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""


def write(folder: Path, requests: int, rate: float, seed: int) -> tuple[Path, Path]:
    """The same requests as our trace and as a timed trace: eight families that share their first half."""
    rng = random.Random(seed)
    sessions, lines, now, fresh = [], [], 0.0, 1000
    for number in range(requests):
        family, size = rng.randrange(8), rng.choice((16, 24, 32, 48))
        blocks = tuple(range(100 * family + 1, 100 * family + 1 + size // 2)) + tuple(range(fresh, fresh + size // 2))
        fresh += size
        # The rest of a prompt in our trace has at least one token, so both have 8 behind their whole blocks.
        length = BLOCK * size + 8
        call = Call(0, None, 0.0, "start", length, OUTPUT, "blocks", blocks, "max_tokens", (), (), None, None, {})
        sessions.append(Session(f"r{number}", None, now, None, (call,), {}))
        lines.append(
            {
                "timestamp": now,
                "input_length": length,
                "output_length": OUTPUT,
                "hash_ids": [*blocks, fresh + 10**6],
            }
        )
        now += rng.expovariate(rate)
    ours, theirs = folder / "trace.jsonl", folder / "timed.jsonl"
    has = {"session": True, "tool_pause": True, "tool_name": False, "blocks": True, "text": False, "tokens": False}
    head = {"name": "made", "split": "", "block_size": BLOCK, "hash_scope": "trace", "tail_hashed": False}
    record = {"kind": "meta", "schema": "agentkv-trace/1", **head, "arrival": "Poisson", "has": has}
    write_trace(ours, Meta("made", "", requests, requests, BLOCK, "trace", False, record), sessions)
    theirs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ours, theirs


def replay(trace: Path, url: str) -> dict[str, float]:
    """Means of ours, in milliseconds."""
    prepared = prepare(
        Options(
            trace=trace, engine="http", policies=None, admission="fcfs", selection=Selection(), slots=1,
            arrival="trace", cache_tokens=None, tokens_per_block=None, time_scale=1.0, seeds="1", hints=False,
            model=None, dtype="float32", block_size=None, max_batched_tokens=1, profile=None, mode="fused",
            json=None, html=None, remote=Remote(url, output="ignore-eos"),
        )
    )  # fmt: skip
    result = http_engine.run(prepared.specs[0], lambda calls: None)
    assert not any(call.error for call in result.calls)
    latencies = [call.finished_s - call.arrived_s for call in result.calls if call.finished_s is not None]
    first = min(call.arrived_s for call in result.calls)
    span_s = max(call.finished_s or 0.0 for call in result.calls) - first
    return {
        "ttft_ms": 1e3 * fmean(value for call in result.calls if (value := ttft_s(call)) is not None),
        "tpot_ms": 1e3 * fmean(value for call in result.calls if (value := tpot_s(call)) is not None),
        "itl_ms": 1e3 * fmean(gap for call in result.calls for gap in call.gaps_s),
        "e2el_ms": 1e3 * fmean(latencies),
        "requests_per_s": len(result.calls) / span_s,
        "output_tokens": float(sum(call.output_tokens for call in result.calls)),
        "prompt_tokens": float(sum(call.prompt_tokens for call in result.calls)),
    }


def bench(trace: Path, url: str, model: str, requests: int, folder: Path) -> dict[str, float]:
    """Means of `vllm bench serve`, in milliseconds."""
    flags = {
        "--backend": "openai", "--base-url": url, "--model": model, "--tokenizer": model,
        "--dataset-name": "timed_trace", "--dataset-path": str(trace), "--num-prompts": str(requests),
        "--result-dir": str(folder), "--result-filename": "bench.json", "--percentile-metrics": "ttft,tpot,itl,e2el",
        "--seed": "1", "--num-warmups": "0", "--ready-check-timeout-sec": "0", "--temperature": "0",
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    subprocess.run(
        [sys.executable, "-c", BENCH, *words, "--ignore-eos", "--save-result", "--disable-tqdm"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    said = json.loads((folder / "bench.json").read_text())
    return {
        **{f"{name}_ms": said[f"mean_{name}_ms"] for name in ("ttft", "tpot", "itl", "e2el")},
        "requests_per_s": said["request_throughput"],
        "output_tokens": float(said["total_output_tokens"]),
        "prompt_tokens": float(said["total_input_tokens"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rate", type=float, default=3.0, help="requests a second")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    peer = Peer("return-index", ["{bin}/agentcache", "serve", "{model}", "--policy", "return-index"])
    environment = {"OMP_NUM_THREADS": "1", "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        started(peer, Peers("", "tiny-llama", [], FLAGS, environment=environment)) as url,
    ):
        folder = Path(name)
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        for pair in range(given.pairs + 1):
            ours, theirs = write(folder, given.requests, given.rate, pair)
            sides: list[dict[str, float]] = [{}, {}]
            for which in (0, 1) if pair % 2 else (1, 0):
                httpx.post(f"{url}/reset_prefix_cache")
                if which == 0:
                    sides[0] = replay(ours, url)
                else:
                    sides[1] = bench(theirs, url, model, given.requests, folder)
            if pair:  # the first one warms both up
                pairs.append((sides[0], sides[1]))
                print(pair, *(f"{key}={sides[0][key]:.2f}/{sides[1][key]:.2f}" for key in sides[0]), flush=True)
    host = describe_host()
    rows: list[dict[str, Any]] = []
    for metric in pairs[0][0]:
        row = {
            "metric": metric,
            "ours": round(median(ours[metric] for ours, _ in pairs), 3),
            "vllm_bench": round(median(theirs[metric] for _, theirs in pairs), 3),
            "ratio": round(median(ours[metric] / theirs[metric] for ours, theirs in pairs), 4),
            "pairs": len(pairs),
        }
        print(row)
        rows.append(row | {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": 1})
    if given.out:
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
