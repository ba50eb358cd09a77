"""The HTTP application of an ingress: OpenAI's API, the control API, health, and their description."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.routing import Route, request_response

import agentcache
from agentcache.service.front.control import Control, Service, routes
from agentcache.service.front.ingress import Ingress
from agentcache.service.front.listen import listening
from agentcache.service.front.tenants import Rate
from agentcache.service.front.watch import watch
from agentcache.service.replicas.asgi import Attended

FIRST_LOOK_S = 1.0


def api(ingress: Ingress, service: Service) -> FastAPI:
    """The HTTP application: OpenAI's API under /v1, the control API, health, and what describes them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asked = asyncio.Event()
        watching = asyncio.create_task(watch(ingress.homes, service, asked))
        with suppress(TimeoutError):  # turns may come at once, also to an ingress that was started anew
            await asyncio.wait_for(asked.wait(), FIRST_LOOK_S)
        async with listening(app, ingress.config.listen, ingress.config.keep_alive_s):
            yield
        watching.cancel()

    app = FastAPI(title="AgentCache", version=agentcache.__version__, lifespan=lifespan)
    openai = Attended(request_response(ingress.openai))
    for path, methods in (("/v1/{path:path}", ["GET", "POST"]), ("/tokenize", ["POST"]), ("/detokenize", ["POST"])):
        app.router.routes.append(Route(path, openai, methods=methods, include_in_schema=False))
    rate = Rate(ingress.config.control_per_s, 2 * math.ceil(ingress.config.control_per_s), time.monotonic)
    app.include_router(routes(Control(ingress, service, rate)))

    @app.get("/health", summary="Whether this ingress answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    app.add_route("/metrics", ingress.metrics, methods=["GET"], include_in_schema=False)
    return app
