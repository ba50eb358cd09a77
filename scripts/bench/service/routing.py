"""Two replicas behind three routers on one replay, and what the ingress adds to a request.

    OMP_NUM_THREADS=1 python scripts/bench/service/routing.py --out docs/results/routing.csv
    OMP_NUM_THREADS=1 python scripts/bench/service/routing.py --ingress --out docs/results/ingress.csv

Routers: `residency` (expected queue delay + rebuild seconds), Serve's `default` (the shorter of two queues), and
`session` (Serve's consistent hashing: a session stays where it is). Each serves the same jobs, seed by seed, through
HTTP. `--ingress` asks vLLM's own server and the application with one replica the same requests in turn, both alone in
their process groups and otherwise idle. Run it alone: everything here shares the machine's cores.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from agentcache.files import free_port
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

TRACE = "workloads/data/cc_weka.cut.jsonl.zst"
MODEL = "tiny-llama"
ROUTERS = ("residency", "default", "session")
JOBS = {"--sessions": 20, "--max-calls": 8, "--max-ctx": 64000, "--slots": 14, "--tokens-per-block": 1}
POOL = 4352  # tokens of cache in each replica: together they hold the contexts of all open jobs, one does not
ADMISSION = "working-set:release_s=2"
TIME_SCALE = 0.05
FLAGS = {"--dtype": "float32", "--block-size": 32, "--max-num-batched-tokens": 512, "--max-num-seqs": 32}
FLAGS |= {"--max-model-len": 1088, "--distributed-executor-backend": "uni"}
ENV = {"VLLM_CPU_CI_ENV": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
START_S = 300


def words(flags: dict[str, Any]) -> list[str]:
    return [str(word) for flag in flags.items() for word in flag]


@contextmanager
def server(*command: str) -> Iterator[str]:
    """A server of ours in its own process group; its URL, once it can serve."""
    port = free_port()
    argv = [sys.executable, "-c", "from agentcache.cli.main import main; main()", *command, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, env=os.environ | ENV, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            url = f"http://127.0.0.1:{port}"
            while not serves(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"{command[0]} did not start: {log.read()[-3000:].decode(errors='replace')}")
                time.sleep(0.5)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def up(replicas: int, router: str, pool: int = POOL, model: str = MODEL) -> list[str]:
    given = FLAGS | {"--num-gpu-blocks-override": pool // 32 + 1}
    start = ["up", "--model", model, "--replicas", str(replicas), "--router", router, "--enforce-eager"]
    start += ["--admission", ADMISSION]
    return start + words(given)


# Routers


def replay(url: str, seed: int, trace: str, jobs: dict[str, Any]) -> dict[str, Any]:
    """One row of `agentcache replay` against a server."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        flags = {"--engine": "http", "--url": url, "--output": "ignore-eos", "--time-scale": TIME_SCALE}
        flags |= {"--seeds": seed, "--json": out, **jobs}
        argv = [sys.executable, "-c", "from agentcache.cli.main import main; main()", "replay", trace, *words(flags)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        (row,) = json.loads(out.read_text())["runs"]
    return dict(row)


def route(
    routers: list[str], model: str, trace: str, pool: int, seeds: list[int], jobs: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row for each router and seed; one application serves all seeds, whose jobs share no token."""
    for router in routers:
        with server(*up(2, router, pool, model)) as url:
            before: Counter[str] = Counter()
            for seed in seeds:
                row = replay(url, seed, trace, jobs)
                after = turns(httpx.get(f"{url}/metrics", trust_env=False).text)
                served = after - before
                yield {
                    "model": model,
                    "router": router,
                    "pool_tokens": pool,
                    "seed": seed,
                    "live_pool": row["live_pool"] / 2,  # the replay knows of one pool
                    "jobs": row["jobs"],
                    "calls": row["calls"],
                    "errors": row["errors"],
                    "prompt_tokens": row["prompt_tokens"],
                    "cached_tokens": row["cached_tokens"],
                    "cached_ratio": row["cached_tokens"] / row["prompt_tokens"],
                    "job_mean_s": row["job_latency_no_tools_s"]["mean"],
                    "job_p90_s": row["job_latency_no_tools_s"]["p90"],
                    "ttft_p50_s": row["ttft_s"]["all"]["p50"],
                    "makespan_s": row["makespan_s"],
                    "busiest_share": max(served.values()) / served.total(),
                }
                before = after


def turns(page: str) -> Counter[str]:
    """The turns that each replica has served so far."""
    served: Counter[str] = Counter()
    for line in page.splitlines():
        if line.startswith("agentcache_turns_total{"):
            served[line.split('replica="')[1].split('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
    return served


# The ingress


def ask(client: httpx.Client, body: dict[str, Any]) -> tuple[float, float]:
    """Seconds until the first byte of the body, and until the last."""
    begun = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        pieces = response.iter_raw()
        next(pieces)
        first = time.perf_counter() - begun
        for _ in pieces:
            pass
        assert response.status_code == 200
    return first, time.perf_counter() - begun


def paired(urls: Sequence[str], shapes: dict[str, dict[str, Any]], pairs: int) -> Iterator[dict[str, Any]]:
    """A row for each pair of equal requests of a shape: to the first server, and to the second."""
    clients = [httpx.Client(base_url=url, timeout=60, trust_env=False) for url in urls]
    for pair in range(-10, pairs):
        for what, shape in shapes.items():
            body = shape | {"prompt": [3 + pair % 400] * 512}
            times = {side: ask(clients[side], body) for side in ((0, 1) if pair % 2 else (1, 0))}
            if pair < 0:  # the first ones warm both up
                continue
            yield {
                "what": what,
                "pair": pair,
                "own_first_ms": 1e3 * times[0][0],
                "ours_first_ms": 1e3 * times[1][0],
                "own_ms": 1e3 * times[0][1],
                "ours_ms": 1e3 * times[1][1],
                "added_first_ms": 1e3 * (times[1][0] - times[0][0]),
                "added_ms": 1e3 * (times[1][1] - times[0][1]),
                "seed": 0,
            }


def ingress(pairs: int) -> Iterator[dict[str, Any]]:
    """Rows of pairs: to vLLM's own server, and through the ingress."""
    flags = FLAGS | {"--num-gpu-blocks-override": 65, "--served-model-name": MODEL}
    body = {"model": MODEL, "ignore_eos": True}
    shapes = {
        "1 token": body | {"max_tokens": 1, "stream": False},
        "32 tokens, streamed": body | {"max_tokens": 32, "stream": True},
    }
    with server("serve", MODEL, "--enforce-eager", *words(flags)) as own, server(*up(1, "residency")) as ours:
        yield from paired((own, ours), shapes, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--ingress", action="store_true", help="the latency of the ingress instead")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--model", default=MODEL, help="behind the routers")
    parser.add_argument("--trace", default=TRACE)
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--pool", type=int, default=POOL, help="tokens of cache in each replica")
    parser.add_argument("--sessions", type=int, default=JOBS["--sessions"])
    args = parser.parse_args()
    host = describe_host()
    where: dict[str, Any] = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    found = (
        ingress(args.pairs)
        if args.ingress
        else route(
            args.routers.split(","), args.model, args.trace, args.pool, seeds, JOBS | {"--sessions": args.sessions}
        )
    )
    rows = []
    for row in found:
        where["load"] = os.getloadavg()[0]  # of the last minute: what else the machine did
        rows.append({name: round(x, 4) if isinstance(x, float) else x for name, x in (row | where).items()})
        if not args.ingress:
            print(rows[-1], flush=True)
        if args.out:
            with args.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
    group = "what" if args.ingress else "router"
    for name in dict.fromkeys(row[group] for row in rows):
        mine = [row for row in rows if row[group] == name]
        shown = [key for key, value in mine[0].items() if isinstance(value, float)]
        print(name, {key: round(median(row[key] for row in mine), 3) for key in shown})


if __name__ == "__main__":
    main()
