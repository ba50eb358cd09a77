"""A replica: one engine and its OpenAI API, called over Serve's handles."""

import importlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve

from agentcache.errors import ConfigError
from agentcache.service.asgi import answer
from agentcache.service.call import Call, Head, Plan
from agentcache.service.config import ServiceConfig


class Replica:
    """A Serve deployment around the engine that the configuration names.

    An engine is a class with `start()`, `stop()`, `check()` (raises when it is dead), all async, `app` (ASGI) and
    `profile()` (a `CostProfile`).
    """

    async def __init__(self, config: ServiceConfig) -> None:  # type: ignore[misc]
        self.name = serve.get_replica_context().replica_id.unique_id
        cluster = ray.get_runtime_context().gcs_address
        link = {"service": f"{cluster}/{config.namespace}", "engine": self.name}
        self.engine = _load(config.engine)(config.model, config.engine_kwargs, config.agentcache | link)
        await self.engine.start()
        profile = self.engine.profile()
        self.rates = (profile.c_lin, profile.c_att)
        self.open: dict[int, Plan] = {}
        self._numbers = itertools.count()

    async def http(self, call: Call, plan: Plan) -> AsyncIterator[Head | bytes]:
        """Answer one HTTP request: head and first piece, then the rest. A caller that goes away ends the work."""
        number = next(self._numbers)
        self.open[number] = plan
        parts = answer(self.engine.app, call)
        try:
            status, headers = await anext(parts)
            if status >= 500:
                await self.engine.check()  # a dead engine is no answer: the ingress asks another replica
            first = await anext(parts, b"")
            plan.started = True
            yield Head(status, headers, self.name, first)  # type: ignore[arg-type]
            async for part in parts:
                yield part  # type: ignore[misc]
        finally:
            await parts.aclose()  # type: ignore[attr-defined]
            del self.open[number]

    def waiting_s(self) -> Counter[str]:
        """Expected prefill seconds of requests without a first byte, by the ingress that sent each."""
        waits: Counter[str] = Counter()
        for plan in self.open.values():
            if not plan.started:
                waits[plan.source] += plan.rebuild_s  # type: ignore[assignment]
        return waits

    def record_routing_stats(self) -> dict[str, Any]:
        """Serve brings this to every router: what waits and what is open here, by ingress; what a token costs."""
        requests = Counter(plan.source for plan in self.open.values())
        return {"waiting_s": dict(self.waiting_s()), "open": dict(requests), "rates": self.rates}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve brings this to the autoscaling policy: expected rebuild seconds waiting."""
        return {"rebuild_seconds_waiting": float(sum(self.waiting_s().values()))}

    async def metrics(self) -> tuple[str, str, float]:
        """This replica's name, its engine's page of metrics, and the expected rebuild seconds that wait."""
        parts = [part async for part in answer(self.engine.app, Call("GET", "/metrics"))]
        page = b"".join(part for part in parts if isinstance(part, bytes)).decode()
        return self.name, page, float(sum(self.waiting_s().values()))

    async def check_health(self) -> None:
        await self.engine.check()

    async def __del__(self) -> None:
        if engine := getattr(self, "engine", None):
            await engine.stop()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"engine {path!r} cannot be imported: {error}; expected module:Class") from error
