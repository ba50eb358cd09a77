"""Our HTTP replayer beside `vllm bench serve` and aiperf: one server, the same requests at the same times, in rounds.

    python scripts/bench/http/http_agree.py --aiperf ELSEWHERE/bin/aiperf --out docs/results/http-agree.csv

One `agentcache serve` on a CPU. A trace of single calls with Poisson arrivals is written for each tool in its own
format: lengths, shared blocks and times are equal, tokens are each tool's own. In each round all tools take turns, in
an order that changes, and the cache is emptied before each; a first round warms all up. Two runs of one tool differ by
what else the machine does, so each tool is also put beside the server's own mean over the same requests, where the
server counts it: `ours_over_server` and `theirs_over_server` are what a client sees of a second that it counted.
A row is a metric of a tool: medians over rounds, and by how many percent the tools are apart, against the server's word
if there is one, else directly.

aiperf needs other versions of our own dependencies, so it is not installed here: it may stand in an environment of its
own (`python -m venv ELSEWHERE; ELSEWHERE/bin/pip install aiperf==0.13.0`). It gives no times between single tokens.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx

from agentcache.files import write_csv
from agentcache_workloads.readers.trace import Meta, Session, TraceCall
from agentcache_workloads.readers.writers.agentkv_writer import write_trace
from agentcache_workloads.replay.accounts.metrics import tpot_s, ttft_s
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.commands.peer_servers import Peer, Peers, started
from agentcache_workloads.replay.commands.prepare import prepare
from agentcache_workloads.replay.engines.http.driver import Drive
from agentcache_workloads.replay.engines.http.server import Scrape, parse_metrics
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.jobs import shuffled
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import Options, Remote

BLOCK, OUTPUT = 16, 24
FLAGS = [
    *("--port", "{port}", "--dtype", "float32", "--block-size", "32", "--num-gpu-blocks-override", "257"),
    *("--max-model-len", "2048", "--max-num-batched-tokens", "512", "--enforce-eager"),
    *("--enable-prompt-tokens-details", "--logits-processors", "visible:Visible"),
]
OURS = "agentcache replay"
TIMES = ("ttft", "tpot", "itl", "e2el")
SERVER = {
    "ttft_mean_ms": "vllm:time_to_first_token_seconds",
    "tpot_mean_ms": "vllm:request_time_per_output_token_seconds",
    "itl_mean_ms": "vllm:inter_token_latency_seconds",
    "e2el_mean_ms": "vllm:e2e_request_latency_seconds",
}
"""Means that vLLM counts itself."""
SHOWN = ("ttft_mean_ms", "ttft_median_ms", "tpot_mean_ms", "output_tokens_per_s", "prompt_tokens")
MODEL = "demo-llama"
"""Prompts take it tenths of a second: a client's own milliseconds then say little of the rest."""
TOKENIZER = f"made/{MODEL}"
MOONCAKE = "mooncake.jsonl"
AIPERF = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2el": "request_latency"}
"""Our names of times, and aiperf's: what it calls inter-token latency is a request's mean."""
BENCH = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""


def write(folder: Path, requests: int, rate: float, seed: int) -> tuple[Path, Path]:
    """The same requests as our trace and as a timed trace: eight families that share their first half.

    Beside the second one stands the same with milliseconds, as aiperf wants it.
    """
    rng = random.Random(seed)
    sessions, lines, now, fresh = [], [], 0.0, 1000
    for number in range(requests):
        family, size = rng.randrange(8), rng.choice((48, 64, 80, 96))
        blocks = tuple(range(100 * family + 1, 100 * family + 1 + size // 2)) + tuple(range(fresh, fresh + size // 2))
        fresh += size
        # The rest of a prompt in our trace has at least one token, so both have 8 behind their whole blocks.
        length = BLOCK * size + 8
        call = TraceCall(0, None, 0.0, "start", length, OUTPUT, "blocks", blocks, "max_tokens", (), (), None, None, {})
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
    in_ms = [line | {"timestamp": round(1000 * line["timestamp"])} for line in lines]
    (folder / MOONCAKE).write_text("".join(json.dumps(line) + "\n" for line in in_ms))
    return ours, theirs


class Cold(Drive):
    """The replayer without its first request, which the server would count with the others."""

    async def _warm_up(self) -> None:
        pass


def scrape(url: str) -> Scrape:
    return parse_metrics(httpx.get(f"{url}/metrics").text)


def counted(before: Scrape, after: Scrape) -> dict[str, float]:
    """The server's means of what came between two readings, in milliseconds."""
    means = {}
    for metric, name in SERVER.items():
        total, count = (
            (after.total(f"{name}_{part}") or 0.0) - (before.total(f"{name}_{part}") or 0.0)
            for part in ("sum", "count")
        )
        if count:
            means[f"server_{metric}"] = 1e3 * total / count
    return means


def replay(trace: Path, url: str) -> dict[str, float]:
    """What our replayer measured; times in milliseconds."""
    remote = Remote(url, output="ignore-eos")
    prepared = prepare(Options(trace=trace, engine="http", slots=1, arrival="trace", hints=False, remote=remote))
    spec, plan = prepared.specs[0], prepared.plan
    jobs = shuffled(plan.jobs, spec.seed)
    renderer = Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, spec.seed)
    times_s = arrival_times(spec.arrival, jobs, spec.seed)
    before = scrape(url)
    result = asyncio.run(Cold(spec, remote, jobs, renderer, times_s, lambda calls: None).run())
    assert not any(call.error for call in result.calls)
    latencies = [call.finished_s - call.arrived_s for call in result.calls if call.finished_s is not None]
    first = min(call.arrived_s for call in result.calls)
    span_s = max(call.finished_s or 0.0 for call in result.calls) - first
    times = {
        "ttft": [value for call in result.calls if (value := ttft_s(call)) is not None],
        "tpot": [value for call in result.calls if (value := tpot_s(call)) is not None],
        "itl": [gap for call in result.calls for gap in call.gaps_s],
        "e2el": latencies,
    }
    output_tokens = float(sum(call.output_tokens for call in result.calls))
    return {
        **{f"{name}_mean_ms": 1e3 * fmean(values) for name, values in times.items()},
        **{f"{name}_median_ms": 1e3 * median(values) for name, values in times.items()},
        "requests_per_s": len(result.calls) / span_s,
        "output_tokens_per_s": output_tokens / span_s,
        "output_tokens": output_tokens,
        "prompt_tokens": float(sum(call.prompt_tokens for call in result.calls)),
        **counted(before, scrape(url)),
    }


def run(command: list[str], folder: Path, **environment: str) -> None:
    """Run a tool; its last words if it fails."""
    log = folder / "log"
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with code {done.returncode}:\n{log.read_text()[-4000:]}")


def bench(trace: Path, url: str, model: str, requests: int, folder: Path) -> dict[str, float]:
    """What `vllm bench serve` measured; times in milliseconds."""
    flags = {
        "--backend": "openai", "--base-url": url, "--model": model, "--tokenizer": model,
        "--dataset-name": "timed_trace", "--dataset-path": str(trace), "--num-prompts": str(requests),
        "--result-dir": str(folder), "--result-filename": "bench.json", "--percentile-metrics": ",".join(TIMES),
        "--seed": "1", "--num-warmups": "0", "--ready-check-timeout-sec": "0", "--temperature": "0",
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    run([sys.executable, "-c", BENCH, *words, "--ignore-eos", "--save-result", "--disable-tqdm"], folder)
    said = json.loads((folder / "bench.json").read_text())
    return {
        **{f"{name}_{of}_ms": said[f"{of}_{name}_ms"] for of in ("mean", "median") for name in TIMES},
        "requests_per_s": said["request_throughput"],
        "output_tokens_per_s": said["output_throughput"],
        "output_tokens": float(said["total_output_tokens"]),
        "prompt_tokens": float(said["total_input_tokens"]),
    }


def aiperf(program: Path, url: str, model: str, folder: Path) -> dict[str, float]:
    """What aiperf measured; times in milliseconds."""
    out, hub = folder / "aiperf", folder / "hub"
    # Its workers look a tokenizer up in the hub's cache, and refuse a folder: so this one is given a name there.
    card = hub / f"models--{TOKENIZER.replace('/', '--')}"
    if not card.exists():
        for part in ("refs", "snapshots"):
            (card / part).mkdir(parents=True)
        (card / "refs" / "main").write_text("here")
        (card / "snapshots" / "here").symlink_to(model)
    flags = {
        "--url": url, "--model": model, "--tokenizer": TOKENIZER, "--endpoint-type": "completions",
        "--input-file": str(folder / MOONCAKE), "--custom-dataset-type": "mooncake_trace",
        "--prompt-input-tokens-block-size": str(BLOCK), "--artifact-dir": str(out), "--ui": "none",
        "--random-seed": "1",
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    extra = [word for field in ("ignore_eos:true", "temperature:0") for word in ("--extra-inputs", field)]
    switches = ["--fixed-schedule", "--streaming", "--use-server-token-count", "--no-gpu-telemetry"]
    run([str(program), "profile", *words, *extra, *switches], folder, HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    said = json.loads((out / "profile_export_aiperf.json").read_text())
    return {
        **{f"{ours}_mean_ms": said[theirs]["avg"] for ours, theirs in AIPERF.items()},
        **{f"{ours}_median_ms": said[theirs]["p50"] for ours, theirs in AIPERF.items()},
        "requests_per_s": said["request_throughput"]["avg"],
        "output_tokens_per_s": said["output_token_throughput"]["avg"],
        "output_tokens": said["total_output_tokens"]["avg"],
        "prompt_tokens": said["total_isl"]["avg"],
    }


def beside(rounds: list[dict[str, dict[str, float]]], tool: str, metric: str) -> dict[str, float | None]:
    """The numbers of a row."""

    def over_server(which: str) -> list[float]:
        named = f"server_{metric}"
        return [said[which][metric] / said[which][named] for said in rounds if named in said[which]]

    ratio = median(said[OURS][metric] / said[tool][metric] for said in rounds)
    mine, its = over_server(OURS), over_server(tool)
    told = median(a / b for a, b in zip(mine, its, strict=True)) if mine and its else None
    return {
        "ours": round(median(said[OURS][metric] for said in rounds), 3),
        "theirs": round(median(said[tool][metric] for said in rounds), 3),
        "ratio": round(ratio, 4),
        "ours_over_server": round(median(mine), 4) if mine else None,
        "theirs_over_server": round(median(its), 4) if its else None,
        "ratio_over_server": None if told is None else round(told, 4),
        "off_percent": round(100 * abs((ratio if told is None else told) - 1), 2),
    }


def rows_of(rounds: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each metric of each other tool."""
    host = describe_host()
    where = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": 1}
    return [
        {"tool": tool, "metric": metric, **beside(rounds, tool, metric), "rounds": len(rounds), **where}
        for tool in sorted(rounds[0].keys() - {OURS}, reverse=True)
        for metric in rounds[0][tool]
        if not metric.startswith("server_")
    ]


def keep(rows: list[dict[str, Any]], out: Path | None) -> None:
    """Write what is there, after each round: a run that is cut keeps the rounds before."""
    if out:
        write_csv(out, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.7, help="requests a second")
    parser.add_argument("--aiperf", type=Path, help="its program, in an environment of its own")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    peer = Peer("return-index", ["{bin}/agentcache", "serve", "{model}", "--policy", "return-index"])
    environment = {
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    rounds: list[dict[str, dict[str, float]]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        started(peer, Peers("", MODEL, [], FLAGS, environment=environment)) as url,
    ):
        folder = Path(name)
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        ours, theirs = folder / "trace.jsonl", folder / "timed.jsonl"
        tools: dict[str, Callable[[], dict[str, float]]] = {
            OURS: lambda: replay(ours, url),
            "vllm bench serve": lambda: bench(theirs, url, model, given.requests, folder),
        }
        if given.aiperf:
            tools["aiperf"] = lambda: aiperf(given.aiperf, url, model, folder)
        for number in range(given.rounds + 1):  # the first one warms all up
            write(folder, given.requests, given.rate, number)
            said = {}
            turn = number % len(tools)
            for tool in [*tools, *tools][turn : turn + len(tools)]:
                httpx.post(f"{url}/reset_prefix_cache")
                before = scrape(url)
                result = tools[tool]()
                said[tool] = counted(before, scrape(url)) | result
            shown = (
                f"{metric}=" + "/".join(f"{one.get(metric, 0.0):.2f}" for one in said.values()) for metric in SHOWN
            )
            print(number, "/".join(said), *shown, flush=True)
            if number:
                rounds.append(said)
                keep(rows_of(rounds), given.out)
    for row in rows_of(rounds):
        print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
