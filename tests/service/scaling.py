"""A child process that runs the application with a stand-in engine and changes the number of its replicas under load.

The engine answers at once what it was asked; Serve, the router and the ingress are real. Outcome as JSON on stdout.
"""

import asyncio
import json
import sys
from collections import defaultdict
from typing import Any

import httpx

from agentcache.cost import CostProfile
from tests.service.stand import REPLICA


class EchoEngine:
    """An engine for `ServiceConfig.engine`."""

    def __init__(self, model: str, engine_kwargs: dict[str, Any], options: dict[str, Any]) -> None:
        self.app = REPLICA

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self) -> None: ...

    def profile(self) -> CostProfile:
        return CostProfile(c_lin=1e-4, c_att=0.0)


async def load(url: str, steps: list[int]) -> dict[str, Any]:
    """Turns of 30 sessions without a pause, while the replicas change; what came of them."""
    from ray import serve

    from agentcache.service.app import application
    from agentcache.service.local import APP

    codes: dict[int, int] = defaultdict(int)
    homes: list[dict[str, set[str]]] = []
    done = asyncio.Event()

    async def session(http: httpx.AsyncClient, name: str) -> None:
        said = [{"role": "user", "content": f"{name} " * 200}]
        while not done.is_set():
            answer = await http.post("/v1/chat/completions", json={"messages": said}, headers={"X-Session-ID": name})
            codes[answer.status_code] += 1
            homes[-1][name].add(answer.headers.get("x-agentcache-replica", ""))
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        homes.append(defaultdict(set))
        tasks = [asyncio.create_task(session(http, f"s{number}")) for number in range(30)]
        await asyncio.sleep(1)
        for replicas in steps:
            await asyncio.to_thread(serve.run, application(config(replicas)), name=APP)
            homes.append(defaultdict(set))
            await asyncio.sleep(1.5)
        done.set()
        await asyncio.gather(*tasks)
    used = [sorted(set().union(*step.values())) for step in homes]
    return {"codes": codes, "used": used, "moved": [sum(len(seen) > 1 for seen in step.values()) for step in homes]}


def config(replicas: int) -> Any:
    from agentcache.service.config import load_config

    engine = "tests.service.scaling:EchoEngine"
    return load_config({"model": "none", "replicas": replicas, "engine": engine, "num_cpus": 0.01})


def main() -> None:
    from agentcache.service.local import running

    with running(config(2), "127.0.0.1", int(sys.argv[1])) as url:
        print(json.dumps(asyncio.run(load(url, [3, 1]))))


if __name__ == "__main__":
    main()
