"""The synchronous client: the same calls as `AgentCacheClient`, without a loop.

with SyncAgentCacheClient("http://127.0.0.1:8000") as client, client.job() as job:
    answer = job.chat([{"role": "user", "content": "list the files"}])
    with job.tool("bash", expected_s=2):
        ...
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class SyncAgentCacheClient:
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._model = model
        self._http = httpx.Client(
            base_url=url, headers=calls.headers(token), timeout=timeout_s, transport=transport, trust_env=False
        )

    def __enter__(self) -> "SyncAgentCacheClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def job(self, name: str | None = None, parent: str | None = None) -> Iterator["Job"]:
        """A job, told to the service at its start and end. `parent` makes it a sub-agent's."""
        job = Job(self, name or f"job-{uuid4().hex[:12]}")
        self.tell(StartJob(job=job.name, parent=parent))
        try:
            yield job
        finally:
            self.tell(EndJob(job=job.name))

    def act(self, action: Action) -> Answer:
        """State an action and return its outcome. Raises where `tell` does not."""
        return calls.read(self._send(**calls.of_action(action)), Answer)

    def tell(self, action: Action) -> Answer | None:
        """State an action if somebody listens; None if not."""
        try:
            return self.act(action)
        except AgentCacheError as error:
            logger.info("%s was not told: %s", type(action).__name__, error.message)
            return None

    def snapshot(self, limit: int = 100) -> Snapshot:
        return calls.read(self._send("GET", f"{calls.PREFIX}/snapshot", params={"limit": limit}), Snapshot)

    def explain(self, job: str) -> Explanation:
        return calls.read(self._send("GET", f"{calls.PREFIX}/explain", params={"job": job}), Explanation)

    def model(self) -> str:
        if self._model is None:
            self._model = str(calls.read(self._send("GET", "/v1/models"), dict)["data"][0]["id"])
        return self._model

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return calls.read(self._send("POST", calls.CHAT, json=body), dict)

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            with self._answer("POST", calls.CHAT, json={**body, "stream": True}) as response:
                if response.status_code >= 400:
                    response.read()
                    calls.check(response)
                for line in response.iter_lines():
                    if (chunk := calls.event(line)) is not None:
                        yield chunk
        except httpx.TransportError as error:
            raise EngineError(f"the stream broke: {error!r}") from error

    def _send(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        try:
            with self._answer(method, url, **kwargs) as response:
                response.read()
                return response
        except httpx.TransportError as error:
            raise EngineError(f"{method} {url} was not answered: {error!r}") from error

    @contextmanager
    def _answer(self, method: str, url: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """An answer that has begun, asked for twice if the connection ended first."""
        request = self._http.build_request(method, url, **kwargs)
        try:
            response = self._http.send(request, stream=True)
        except calls.UNANSWERED:
            response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()


class Job:
    """One job of a client: its turns carry its name, so that its context is kept, and found again, while tools run."""

    def __init__(self, client: SyncAgentCacheClient, name: str) -> None:
        self.name = name
        self._client = client
        self._ran: str | None = None  # the tool since the last turn

    def chat(self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any) -> dict[str, Any]:
        """One turn: OpenAI's chat completion. `last`: whether the job ends with it, where that is known."""
        return self._client.chat(self._body(messages, last, body))

    def stream(
        self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any
    ) -> Iterator[dict[str, Any]]:
        """One turn, as OpenAI's chunks."""
        yield from self._client.stream(self._body(messages, last, body))

    @contextmanager
    def tool(self, name: str, expected_s: float | None = None) -> Iterator[None]:
        """A tool runs. `expected_s`: how long it will, as far as anybody knows."""
        self._client.tell(StartTool(job=self.name, tool=name, expected_s=expected_s))
        try:
            yield
        finally:
            self._ran = name
            self._client.tell(FinishTool(job=self.name, tool=name))

    def retain(self, ttl_s: float, keep_priority: int = 35, lease: str | None = None) -> Answer:
        """Ask to keep the job's contexts for so long; the answer says what was granted, and its lease renews it."""
        return self._client.act(RetainJob(job=self.name, ttl_s=ttl_s, keep_priority=keep_priority, lease=lease))

    def release(self) -> Answer:
        """Give up what was retained."""
        return self._client.act(ReleaseJob(job=self.name))

    def explain(self) -> Explanation:
        """Why the job's contexts are where they are."""
        return self._client.explain(self.name)

    def _body(self, messages: Sequence[Mapping[str, Any]], last: bool | None, body: dict[str, Any]) -> dict[str, Any]:
        ran, self._ran = self._ran, None
        return calls.of_chat(self.name, messages, body.pop("model", None) or self._client.model(), ran, last, **body)
