"""Both clients: jobs with their turns and tools, over the OpenAI API and the control API.

    async with AgentCacheClient("http://127.0.0.1:8000") as client, client.job() as job:
        answer = await job.chat([{"role": "user", "content": "list the files"}])
        async with job.tool("bash", expected_s=2):
            ...

`SyncAgentCacheClient` and its `Job` are the same without a loop. What is said is written once, as generators that yield
a request and are sent its answer (`Calls`, `Turns`); each client runs them over its own connection.

What a client says about its jobs is worth residency and nothing else: if the control API is away, turns go on.
"""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
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
from agentcache.errors import AgentCacheError

logger = logging.getLogger(__name__)

Body = dict[str, Any]
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")
P = ParamSpec("P")
Ask = Generator[calls.Request, httpx.Response, T]
"""A call: yields what is to be sent, is sent the answer, and returns what that means."""


class Calls:
    """What a client says of itself."""

    def __init__(self, model: str | None) -> None:
        self.named = model

    def act(self, action: Action) -> Ask[Answer]:
        """State an action and return its outcome. Raises where `tell` does not."""
        return calls.read((yield calls.of_action(action)), Answer)

    def tell(self, action: Action) -> Ask[Answer | None]:
        """State an action if somebody listens; None if not."""
        try:
            return (yield from self.act(action))
        except AgentCacheError as error:
            logger.info("%s was not told: %s", type(action).__name__, error.message)
            return None

    def snapshot(self, limit: int = 100) -> Ask[Snapshot]:
        """What the service knows now; at most `limit` contexts, the latest first."""
        return calls.read((yield calls.of_view("snapshot", limit=limit)), Snapshot)

    def explain(self, job: str) -> Ask[Explanation]:
        """Why a job's contexts are where they are."""
        return calls.read((yield calls.of_view("explain", job=job)), Explanation)

    def model(self) -> Ask[str]:
        """The model that is asked where a turn names none."""
        if self.named is None:
            self.named = str(calls.read((yield {"method": "GET", "url": "/v1/models"}), dict)["data"][0]["id"])
        return self.named

    def chat(self, body: Body) -> Ask[Body]:
        """OpenAI's chat completion."""
        return calls.read((yield {"method": "POST", "url": calls.CHAT, "json": body}), dict)


class Turns:
    """What a job says: its turns carry its name, so that its context is kept, and found again, while tools run."""

    def __init__(self, client: Calls, name: str | None) -> None:
        self.client = client
        self.name = name or f"job-{uuid4().hex[:12]}"
        self.ran: str | None = None  # the tool since the last turn

    def chat(self, /, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any) -> Ask[Body]:
        """One turn: OpenAI's chat completion. `last`: whether the job ends with it, where that is known."""
        return (yield from self.client.chat((yield from self.body(messages, last, body))))

    def retain(self, ttl_s: float, keep_priority: int = 35, lease: str | None = None) -> Ask[Answer]:
        """Ask to keep the job's contexts for so long; the answer says what was granted, and its lease renews it."""
        return self.client.act(RetainJob(job=self.name, ttl_s=ttl_s, keep_priority=keep_priority, lease=lease))

    def release(self) -> Ask[Answer]:
        """Give up what was retained."""
        return self.client.act(ReleaseJob(job=self.name))

    def explain(self) -> Ask[Explanation]:
        """Why the job's contexts are where they are."""
        return self.client.explain(self.name)

    def body(self, messages: Sequence[Mapping[str, Any]], last: bool | None, body: Body) -> Ask[Body]:
        ran, self.ran = self.ran, None
        model = body.pop("model", None) or (yield from self.client.model())
        return calls.of_chat(self.name, messages, model, ran, last, **body)


class Asynchronous(Protocol[S_co]):
    """Who says what `S` says, and waits for the answers in a loop."""

    @property
    def _says(self) -> S_co: ...
    async def _ask(self, call: Ask[T]) -> T: ...


class Synchronous(Protocol[S_co]):
    """Who says what `S` says, and blocks until the answers are there."""

    @property
    def _says(self) -> S_co: ...
    def _ask(self, call: Ask[T]) -> T: ...


def awaited(
    call: Callable[Concatenate[S, P], Ask[T]],
) -> Callable[Concatenate[Asynchronous[S], P], Coroutine[Any, Any, T]]:
    """A call as a method of an asynchronous client."""

    @wraps(call)
    async def method(self: Asynchronous[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(call(self._says, *args, **kwargs))

    return method


def blocking(call: Callable[Concatenate[S, P], Ask[T]]) -> Callable[Concatenate[Synchronous[S], P], T]:
    """A call as a method of a synchronous client."""

    @wraps(call)
    def method(self: Synchronous[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(call(self._says, *args, **kwargs))

    return method


class AgentCacheClient:
    """A connection to one service. `token` is the tenant's; `model` by default the first that is served.

    `transport` is httpx's, for a service in this process. Calls raise `InputError` for what the service refuses and
    `EngineError` for what it cannot do now.
    """

    act = awaited(Calls.act)
    tell = awaited(Calls.tell)
    snapshot = awaited(Calls.snapshot)
    explain = awaited(Calls.explain)
    model = awaited(Calls.model)
    chat = awaited(Calls.chat)

    def __init__(
        self,
        url: str,
        token: str | None = None,
        model: str | None = None,
        timeout_s: float | None = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._says = Calls(model)
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
        job = AsyncJob(self, name)
        await self.tell(StartJob(job=job.name, parent=parent))
        try:
            yield job
        finally:
            await self.tell(EndJob(job=job.name))

    async def stream(self, body: Body) -> AsyncIterator[Body]:
        """OpenAI's chat completion, as its chunks."""
        with calls.unbroken():
            async with self._answer(calls.of_stream(body)) as response:
                if response.status_code >= 400:
                    await response.aread()
                    calls.check(response)
                async for line in response.aiter_lines():
                    if (chunk := calls.event(line)) is not None:
                        yield chunk

    async def _ask(self, call: Ask[T]) -> T:
        try:
            request = next(call)
            while True:
                try:
                    async with self._answer(request) as response:
                        await response.aread()
                except httpx.TransportError as error:
                    request = call.throw(calls.unanswered(request, error))
                else:
                    request = call.send(response)
        except StopIteration as end:
            value: T = end.value
            return value

    @asynccontextmanager
    async def _answer(self, sent: calls.Request) -> AsyncIterator[httpx.Response]:
        """An answer that has begun, asked for twice if the connection ended first."""
        request = self._http.build_request(**sent)
        try:
            response = await self._http.send(request, stream=True)
        except calls.UNANSWERED:
            response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


class AsyncJob:
    """One job of an asynchronous client."""

    chat = awaited(Turns.chat)
    retain = awaited(Turns.retain)
    release = awaited(Turns.release)
    explain = awaited(Turns.explain)

    def __init__(self, client: AgentCacheClient, name: str | None = None) -> None:
        self._client, self._says = client, Turns(client._says, name)
        self._ask = client._ask
        self.name = self._says.name

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any
    ) -> AsyncIterator[Body]:
        """One turn, as OpenAI's chunks."""
        async for chunk in self._client.stream(await self._ask(self._says.body(messages, last, body))):
            yield chunk

    @asynccontextmanager
    async def tool(self, name: str, expected_s: float | None = None) -> AsyncIterator[None]:
        """A tool runs. `expected_s`: how long it will, as far as anybody knows."""
        await self._client.tell(StartTool(job=self.name, tool=name, expected_s=expected_s))
        try:
            yield
        finally:
            self._says.ran = name
            await self._client.tell(FinishTool(job=self.name, tool=name))


class SyncAgentCacheClient:
    """`AgentCacheClient` without a loop: the same calls, which block."""

    act = blocking(Calls.act)
    tell = blocking(Calls.tell)
    snapshot = blocking(Calls.snapshot)
    explain = blocking(Calls.explain)
    model = blocking(Calls.model)
    chat = blocking(Calls.chat)

    def __init__(
        self,
        url: str,
        token: str | None = None,
        model: str | None = None,
        timeout_s: float | None = 600.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._says = Calls(model)
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
        job = Job(self, name)
        self.tell(StartJob(job=job.name, parent=parent))
        try:
            yield job
        finally:
            self.tell(EndJob(job=job.name))

    def stream(self, body: Body) -> Iterator[Body]:
        """OpenAI's chat completion, as its chunks."""
        with calls.unbroken(), self._answer(calls.of_stream(body)) as response:
            if response.status_code >= 400:
                response.read()
                calls.check(response)
            for line in response.iter_lines():
                if (chunk := calls.event(line)) is not None:
                    yield chunk

    def _ask(self, call: Ask[T]) -> T:
        try:
            request = next(call)
            while True:
                try:
                    with self._answer(request) as response:
                        response.read()
                except httpx.TransportError as error:
                    request = call.throw(calls.unanswered(request, error))
                else:
                    request = call.send(response)
        except StopIteration as end:
            value: T = end.value
            return value

    @contextmanager
    def _answer(self, sent: calls.Request) -> Iterator[httpx.Response]:
        """An answer that has begun, asked for twice if the connection ended first."""
        request = self._http.build_request(**sent)
        try:
            response = self._http.send(request, stream=True)
        except calls.UNANSWERED:
            response = self._http.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()


class Job:
    """One job of a synchronous client."""

    chat = blocking(Turns.chat)
    retain = blocking(Turns.retain)
    release = blocking(Turns.release)
    explain = blocking(Turns.explain)

    def __init__(self, client: SyncAgentCacheClient, name: str | None = None) -> None:
        self._client, self._says = client, Turns(client._says, name)
        self._ask = client._ask
        self.name = self._says.name

    def stream(self, messages: Sequence[Mapping[str, Any]], last: bool | None = None, **body: Any) -> Iterator[Body]:
        """One turn, as OpenAI's chunks."""
        yield from self._client.stream(self._ask(self._says.body(messages, last, body)))

    @contextmanager
    def tool(self, name: str, expected_s: float | None = None) -> Iterator[None]:
        """A tool runs. `expected_s`: how long it will, as far as anybody knows."""
        self._client.tell(StartTool(job=self.name, tool=name, expected_s=expected_s))
        try:
            yield
        finally:
            self._says.ran = name
            self._client.tell(FinishTool(job=self.name, tool=name))
