"""An ingress that listens itself: one server less between a client and an engine than behind Serve's proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

BACKLOG = 2048


@asynccontextmanager
async def listening(app: Any, address: tuple[str, int] | None, keep_alive_s: int) -> AsyncIterator[None]:
    """Serve an ASGI application at an address while the block runs; None: nowhere. Raises `OSError` if it is taken."""
    if address is None:
        yield
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.create_server(address, family=family, backlog=BACKLOG) as taken:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([taken]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
