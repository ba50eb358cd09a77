"""The asynchronous client: jobs with their turns and tools, over the OpenAI API and the control API.

    async with AgentCacheClient("http://127.0.0.1:8000") as client, client.job() as job:
        answer = await job.chat([{"role": "user", "content": "list the files"}])
        async with job.tool("bash", expected_s=2):
            ...

What a client says about its jobs is worth residency and nothing else: if the control API is away, turns go on.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx

from agentcache.api import calls
from agentcache.api.messages import (
    Action,
    Answer,
    EndJob,
    Explanation,
    FinishTool,
    ReleaseJob,
    RetainJob,
    Snapshot,
    StartJob,
    StartTool,
)
from agentcache.errors import AgentCacheError, EngineError

logger = logging.getLogger(__name__)


class AgentCacheClient:
    """A connection to one service. `token` is the tenant's; `model` by default the first that is served.

    `transport` is httpx's, for a service in this process. Calls raise `InputError` for what the service refuses and
    `EngineError` for what it cannot do now.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        model: str | None = None,
        timeout_s: float | None = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model
        self._http = httpx.AsyncClient(
            base_url=url, headers=calls.headers(token), timeout=timeout_s, transport=transport, trust_env=False
        )

    async def __aenter__(self) -> "AgentCacheClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def job(self, name: str | None = None, parent: str | None = None) -> AsyncIterator["AsyncJob"]:
        """A job, told to the service at its start and end. `parent` makes it a sub-agent's."""
        job = AsyncJob(self, name or f"job-{uuid4().hex[:12]}")
        await self.tell(StartJob(job=job.name, parent=parent))
        try:
            yield job
        finally:
            await self.tell(EndJob(job=job.name))

    async def act(self, action: Action) -> Answer:
        """State an action and return its outcome. Raises where `tell` does not."""
        return calls.read(await self._send(**calls.of_action(action)), Answer)

    async def tell(self, action: Action) -> Answer | None:
        """State an action if somebody listens; None if not."""
        try:
            return await self.act(action)
        except AgentCacheError as error:
            logger.info("%s was not told: %s", type(action).__name__, error.message)
            return None

    async def snapshot(self, limit: int = 100) -> Snapshot:
        return calls.read(await self._send("GET", f"{calls.PREFIX}/snapshot", params={"limit": limit}), Snapshot)

    async def explain(self, job: str) -> Explanation:
        return calls.read(await self._send("GET", f"{calls.PREFIX}/explain", params={"job": job}), Explanation)

    async def model(self) -> str:
        if self._model is None:
            self._model = str(calls.read(await self._send("GET", "/v1/models"), dict)["data"][0]["id"])
        return self._model

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return calls.read(await self._send("POST", calls.CHAT, json=body), dict)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            async with self._answer("POST", calls.CHAT, json={**body, "stream": True}) as response:
                if response.status_code >= 400:
                    await response.aread()
                    calls.check(response)
                async for line in response.aiter_lines():
                    if (chunk := calls.event(line)) is not None:
                        yield chunk
        except httpx.TransportError as error:
            raise EngineError(f"the stream broke: {error!r}") from error

    async def _send(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        try:
            async with self._answer(method, url, **kwargs) as response:
                await response.aread()
                return response
        except httpx.TransportError as error:
            raise EngineError(f"{method} {url} was not answered: {error!r}") from error

    @asynccontextmanager
    async def _answer(self, method: str, url: str, **kwargs: Any) -> AsyncIterator[httpx.Response]:
        """An answer that has begun, asked for twice if the connection ended first."""
        request = self._http.build_request(method, url, **kwargs)
        try:
            response = await self._http.send(request, stream=True)
        except calls.UNANSWERED:
            response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


class AsyncJob:
    """One job of a client: its turns carry its name, so that its context is kept, and found again, while tools run."""

    def __init__(self, client: AgentCacheClient, name: str) -> None:
        self.name = name
        self._client = client
        self._ran: str | None = None  # the tool since the last turn

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any
    ) -> dict[str, Any]:
        """One turn: OpenAI's chat completion. `last`: whether the job ends with it, where that is known."""
        return await self._client.chat(await self._body(messages, last, body))

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """One turn, as OpenAI's chunks."""
        async for chunk in self._client.stream(await self._body(messages, last, body)):
            yield chunk

    @asynccontextmanager
    async def tool(self, name: str, expected_s: float | None = None) -> AsyncIterator[None]:
        """A tool runs. `expected_s`: how long it will, as far as anybody knows."""
        await self._client.tell(StartTool(job=self.name, tool=name, expected_s=expected_s))
        try:
            yield
        finally:
            self._ran = name
            await self._client.tell(FinishTool(job=self.name, tool=name))

    async def retain(self, ttl_s: float, keep_priority: int = 35, lease: str | None = None) -> Answer:
        """Ask to keep the job's contexts for so long; the answer says what was granted, and its lease renews it."""
        return await self._client.act(RetainJob(job=self.name, ttl_s=ttl_s, keep_priority=keep_priority, lease=lease))

    async def release(self) -> Answer:
        """Give up what was retained."""
        return await self._client.act(ReleaseJob(job=self.name))

    async def explain(self) -> Explanation:
        """Why the job's contexts are where they are."""
        return await self._client.explain(self.name)

    async def _body(
        self, messages: Sequence[Mapping[str, Any]], last: bool | None, body: dict[str, Any]
    ) -> dict[str, Any]:
        ran, self._ran = self._ran, None
        return calls.of_chat(
            self.name, messages, body.pop("model", None) or await self._client.model(), ran, last, **body
        )
