"""A bounded set of connections, each a client of its own: taking one costs the same however many are open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from agentcache_workloads.replay.engines.http.server import authorization

KEPT_ALIVE_S = 2.0  # less than servers keep an idle connection, or a request meets one that has just been closed


class Lanes:
    """At most `count` requests at once; a lane that is free is taken again, the last one first, while it is warm.

    The client's own pool looks through all its connections at each request and at each end of one, several times.
    """

    def __init__(self, url: str, count: int, timeout_s: float) -> None:
        self._url = url
        self._timeout = httpx.Timeout(timeout_s)
        self._permits = asyncio.Semaphore(count)
        self._free: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []
        self._tls = httpx.create_ssl_context(trust_env=False)  # once: it takes longer than a request

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with one connection, until the block ends; waits for one if all are taken."""
        async with self._permits:
            client = self._free.pop() if self._free else self._open()
            try:
                yield client
            finally:
                self._free.append(client)

    def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_ALIVE_S)
        transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits)
        # A proxy would be measured with the server.
        client = httpx.AsyncClient(
            base_url=self._url,
            headers=authorization(),
            timeout=self._timeout,
            transport=transport,
            trust_env=False,
        )
        self._all.append(client)
        return client

    async def aclose(self) -> None:
        for client in self._all:
            await client.aclose()
