"""What servers between a client and an engine cost where the engine does nothing: Serve's own, and ours.

    python scripts/bench/service/floor.py --out docs/results/ingress-floor.csv

Pairs of equal requests, one to a no-op application behind uvicorn alone and one to the same application behind Serve's
proxy (`one hop`), behind the proxy and a second deployment that calls it through a handle (`two hops`), and as the
engine of a replica of ours. Run it alone: everything here shares the machine's cores.
"""

import argparse
import asyncio
import csv
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import ray
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from routing import paired, serves

from agentcache.cost import CostProfile
from agentcache.files import free_port
from agentcache.service.config import ServiceConfig
from agentcache.service.local import running
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

PIECE = b'data: {"id":"cmpl-0","object":"text_completion","choices":[{"index":0,"text":"' + 64 * b"x" + b'"}]}\n\n'
PIECE_S = 0.0025  # about a step of the small model of the other benchmark
SHAPES = {"1 piece": {"max_tokens": 1}, "32 pieces": {"max_tokens": 32}}


async def pieces(number: int) -> AsyncIterator[bytes]:
    for left in range(number)[::-1]:
        yield PIECE
        if left:
            await asyncio.sleep(PIECE_S)


app = FastAPI()


@app.get("/v1/models")
async def models() -> dict[str, str]:
    return {}


@app.post("/v1/completions")
async def complete(body: dict[str, Any]) -> StreamingResponse:
    return StreamingResponse(pieces(body["max_tokens"]))


front = FastAPI()
front.get("/v1/models")(models)


@serve.ingress(app)
class Hop:
    """The application as a deployment."""


class Behind:
    """The application's work as a deployment that others call."""

    async def pieces(self, number: int) -> AsyncIterator[bytes]:
        async for piece in pieces(number):
            yield piece


@serve.ingress(front)
class Before:
    def __init__(self, behind: DeploymentHandle[Any]) -> None:
        self._behind = behind.options(stream=True, method_name="pieces")

    @front.post("/v1/completions")
    async def complete(self, body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(self._behind.remote(body["max_tokens"]))


class Engine:
    """The application as the engine of a replica."""

    def __init__(self, model: str, engine_kwargs: dict[str, Any], options: dict[str, Any]) -> None:
        self.app = app

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self) -> None: ...

    def profile(self) -> CostProfile:
        return CostProfile(c_lin=1e-5, c_att=0.0)


@contextmanager
def alone() -> Iterator[str]:
    """The application behind uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "floor:app", "--port", str(port), "--no-access-log"]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=Path(__file__).parent)
    try:
        while not serves(url := f"http://127.0.0.1:{port}"):
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def behind_serve(deployment: Any) -> Iterator[str]:
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    try:
        port = free_port()
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        serve.run(deployment, logging_config=quiet)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def paths() -> dict[str, Any]:
    zero = {"ray_actor_options": {"num_cpus": 0}}
    one = serve.deployment(Hop).options(**zero)
    two = serve.deployment(Before).options(**zero)
    behind = serve.deployment(Behind).options(**zero)
    ours = ServiceConfig(model="none", engine="floor:Engine", num_cpus=0.01)
    return {
        "Serve, one hop": behind_serve(one.bind()),
        "Serve, two hops": behind_serve(two.bind(behind.bind())),
        "ours": running(ours, "127.0.0.1", free_port()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--pairs", type=int, default=200)
    known = paths()
    parser.add_argument("--paths", default=",".join(known))
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where replicas find the engine
    host = describe_host()
    where = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    rows: list[dict[str, Any]] = []
    with alone() as own:
        for path, started in known.items():
            if path not in args.paths:
                continue
            with started as url:
                for row in paired((own, url), SHAPES, args.pairs):
                    where["load"] = os.getloadavg()[0]  # of the last minute: what else the machine did
                    whole = {"path": path} | row | where
                    rows.append({name: round(x, 4) if isinstance(x, float) else x for name, x in whole.items()})
            for what in SHAPES:
                mine = [row for row in rows if (row["path"], row["what"]) == (path, what)]
                shown = [name for name in mine[0] if name.endswith("_ms")]
                print(path, what, {name: round(median(row[name] for row in mine), 2) for name in shown}, flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
