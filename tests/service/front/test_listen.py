"""An ingress that listens itself: how long it keeps connections."""

import asyncio
from typing import Any

from agentcache.files import free_port
from agentcache.service.front.listen import listening


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_an_idle_connection_is_kept_for_as_long_as_was_asked() -> None:
    async def run() -> None:
        port = free_port()
        async with listening(app, ("127.0.0.1", port), keep_alive_s=1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            assert await reader.read() == b""  # the server has closed it
            writer.close()

    asyncio.run(run())
