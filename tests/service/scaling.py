"""A child process that runs the application with a stand-in engine while load makes its replicas more and fewer.

The engine answers what it was asked after a moment; Serve, its autoscaler, the router and the ingress are real. Outcome
as JSON on stdout.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from typing import Any

import httpx

from agentcache.cost import CostProfile
from tests.service.stand import REPLICA

LIMIT_S = 240


class EchoEngine:
    """An engine for `ServiceConfig.engine`: answers after a tenth of a second; by its profile a token takes 10 ms."""

    def __init__(self, model: str, engine_kwargs: dict[str, Any], options: dict[str, Any]) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self) -> None: ...

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await REPLICA(scope, receive, send)

    def profile(self) -> CostProfile:
        return CostProfile(c_lin=1e-2, c_att=0.0)


class Load:
    """Sessions that ask without a pause."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.codes: Counter[int] = Counter()

    async def session(self, name: str) -> None:
        for turn in itertools.count():
            # Always a new prompt: one that is known costs nothing to rebuild.
            body = {"messages": [{"role": "user", "content": f"{name}-{turn} " * 100}]}
            answer = await self.http.post("/v1/chat/completions", json=body)
            self.codes[answer.status_code] += 1

    async def until(self, sessions: int, replicas: int) -> int:
        """Run so many sessions until there are so many replicas; how many there were in the end."""
        tasks = [asyncio.create_task(self.session(f"{sessions}-{number}")) for number in range(sessions)]
        deadline = time.monotonic() + LIMIT_S
        while (now := await self.replicas()) != replicas and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        failed = await asyncio.gather(*tasks, return_exceptions=True)
        self.codes[-1] += sum(not isinstance(error, asyncio.CancelledError) for error in failed)
        return now

    async def replicas(self) -> int:
        return (await self.http.get("/metrics")).text.count("agentcache_waiting_rebuild_seconds{")


async def load(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=240, trust_env=False) as http:
        load = Load(http)
        grown = await load.until(24, 2)
        shrunk = await load.until(1, 1)
    return {"codes": +load.codes, "grown": grown, "shrunk": shrunk}


def main() -> None:
    from agentcache.service.config import load_config
    from agentcache.service.local import running

    policy = {"policy_function": "agentcache.service.autoscaling:ByRebuildSeconds", "policy_kwargs": {"target_s": 10}}
    scaling = {"min_replicas": 1, "max_replicas": 2, "metrics_interval_s": 0.5, "look_back_period_s": 1}
    scaling |= {"upscale_delay_s": 0.5, "downscale_delay_s": 0.5, "policy": policy}
    options = {"model": "none", "engine": "tests.service.scaling:EchoEngine", "num_cpus": 0.01, "autoscaling": scaling}
    with running(load_config(options), "127.0.0.1", int(sys.argv[1])) as url:
        print(json.dumps(asyncio.run(load(url))))


if __name__ == "__main__":
    main()
