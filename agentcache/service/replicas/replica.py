"""A replica: one engine and its OpenAI API. Serve counts its calls; their bytes pass Serve by."""

import importlib
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import serve

from agentcache.errors import ConfigError
from agentcache.service.config import ServiceConfig
from agentcache.service.replicas import wire
from agentcache.service.replicas.asgi import Message, answer
from agentcache.service.replicas.counted_calls import CallTally
from agentcache.service.routing.call import Head, Plan, RoutedCall


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
        self.calls = CallTally()
        host: str = ray.util.get_node_ip_address()
        self._server, self._address = await wire.listen(self.http, host)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve brings this to every ingress: where this replica takes calls."""
        return asdict(self._address)

    async def http(self, call: RoutedCall, plan: Plan, out: wire.Out) -> None:
        """Answer one HTTP request: head and first piece, then the rest. A caller that goes away ends the work."""
        head: Head | None = None

        async def send(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                if message["status"] >= 500:
                    await self.engine.check()  # a dead engine is no answer: the ingress asks another replica
                headers = tuple((bytes(name), bytes(value)) for name, value in message["headers"])
                head = Head(message["status"], headers, self.name)
            elif head and (message.get("body") or not message.get("more_body")):
                plan.started = True
                await out(replace(head, body=message.get("body", b"")))
                head = None
            elif message.get("body"):
                await out(message["body"])

        with self.calls.running(plan):
            await answer(self.engine.app, call, send)

    async def hold(self, request: str) -> None:
        """Stands for a call in Serve's books, by which it bounds and scales, until that has ended."""
        await self.calls.hold(request)

    def waiting_s(self) -> defaultdict[str, float]:
        """Expected prefill seconds of requests without a first byte, by the ingress that sent each."""
        waits: defaultdict[str, float] = defaultdict(float)
        for plan in self.calls.open.values():
            if not plan.started:
                waits[plan.source] += plan.rebuild_s
        return waits

    def record_routing_stats(self) -> dict[str, Any]:
        """Serve brings this to every router: what waits and what is open here, by ingress; what a token costs."""
        requests = Counter(plan.source for plan in self.calls.open.values())
        return {"waiting_s": dict(self.waiting_s()), "open": dict(requests), "rates": self.rates}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve brings this to the autoscaling policy: expected rebuild seconds waiting."""
        return {"rebuild_seconds_waiting": float(sum(self.waiting_s().values()))}

    async def metrics(self) -> tuple[str, str, float]:
        """This replica's name, its engine's page of metrics, and the expected rebuild seconds that wait."""
        parts: list[bytes] = []

        async def send(message: Message) -> None:
            parts.append(message.get("body", b""))

        await answer(self.engine.app, RoutedCall("GET", "/metrics"), send)
        return self.name, b"".join(parts).decode(), float(sum(self.waiting_s().values()))

    async def check_health(self) -> None:
        await self.engine.check()

    async def __del__(self) -> None:
        if server := getattr(self, "_server", None):
            server.close()
        if engine := getattr(self, "engine", None):
            await engine.stop()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"engine {path!r} cannot be imported: {error}; expected module:Class") from error
