"""The Serve application: the ingress with its APIs over the replicas of one model."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import FastAPI
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from agentcache.service.config import ServiceConfig
from agentcache.service.front.http import api
from agentcache.service.front.ingress import Ingress
from agentcache.service.front.remote import RemoteService
from agentcache.service.front.tenants import Tenants
from agentcache.service.replicas.place import Place
from agentcache.service.replicas.replica import Replica
from agentcache.service.replicas.wire import Wires
from agentcache.service.routing.call import Head, Plan, RoutedCall

STATS_PERIOD_S = 1.0
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Serve, its router and what we run share one loop, which is uvloop: threads would wait for each other's turns."""
ROUTERS = {
    "residency": "agentcache.service.router:ResidencyRouter",
    "session": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
    "default": None,
}


class ServeBackend:
    """Has Serve's router choose the replica and Serve count the call; asks the replica past Serve."""

    def __init__(self, handle: DeploymentHandle[Any], sticky: bool) -> None:
        self._handle = handle.options(method_name="hold")
        self._sticky = sticky  # Serve's own router of sessions must be told them
        self._wires = Wires()
        self._numbers = itertools.count()
        self._leaving: set[asyncio.Task[None]] = set()

    async def send(self, call: RoutedCall, plan: Plan, session: str | None) -> AsyncIterator[Head | bytes]:
        plan.request = f"{plan.source}-{next(self._numbers)}"
        handle = self._handle.options(session_id=session) if self._sticky and session else self._handle
        place = Place(handle, plan)
        answered = False
        try:
            address = await place.take()
            async with aclosing(self._wires.ask(address, call, plan)) as parts:
                async for part in parts:
                    yield part
            answered = True
        finally:
            plan.ended = True
            leaving = asyncio.create_task(place.leave(answered))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def metrics(self) -> list[tuple[str, str, float]]:
        told: list[tuple[str, str, float]] = await self._handle.broadcast("metrics").results_async(timeout_s=10)
        return told


@serve.ingress()
class Front:
    """The Serve deployment that speaks HTTP."""

    def __init__(self, config: ServiceConfig, replicas: DeploymentHandle[Any]) -> None:
        # Who calls, and with what, is nobody's business in the log.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._config, self._replicas = config, replicas

    def __serve_build_asgi_app__(self) -> FastAPI:
        source = serve.get_replica_context().replica_id.unique_id
        config, backend = self._config, ServeBackend(self._replicas, self._config.router == "session")
        service = RemoteService(config.residency, config.namespace)
        return api(Ingress(config, backend, Tenants.load(config.tenants_file), source), service)


def application(config: ServiceConfig) -> Any:
    """The application of a configuration, for `serve.run` or a Serve configuration file."""
    Tenants.load(config.tenants_file)  # a mistake is told where it was made
    router = ROUTERS[config.router]
    routing: dict[str, Any] = {"request_routing_stats_period_s": STATS_PERIOD_S}
    if router:
        routing["request_router_class"] = router
    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.autoscaling:
        scale = {"autoscaling_config": config.autoscaling}
    replicas = serve.deployment(Replica).options(
        name="replica",
        max_ongoing_requests=config.max_ongoing_requests,
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "runtime_env": {"env_vars": ONE_LOOP | config.env},
        },
        request_router_config=RequestRouterConfig(**routing),
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
        **scale,
    )
    front = serve.deployment(Front).options(
        name="ingress",
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": ONE_LOOP}},
        graceful_shutdown_timeout_s=5,
    )
    # How many there are is none of their business: a change of it restarts nobody.
    told = msgspec.structs.replace(config, replicas=1, autoscaling=None)
    return front.bind(told, replicas.bind(told))
