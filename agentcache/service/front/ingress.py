"""The OpenAI-compatible ingress: who calls, whose job it is, where it goes, and what becomes of its answer."""

import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentcache.api import messages
from agentcache.service.config import ServiceConfig
from agentcache.service.front.endings import is_stream, last_words
from agentcache.service.front.identity import Identity, read_identity, write_identity
from agentcache.service.front.merged_metrics import merged, waiting
from agentcache.service.front.tenants import Rate, Tenant, Tenants, retry_after
from agentcache.service.routing.call import BYTES_PER_TOKEN, Head, Plan, RoutedCall
from agentcache.service.routing.conversations import Lineage
from agentcache.service.routing.homes import Homes

logger = logging.getLogger(__name__)

GENERATES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
"""Calls that compute; vLLM takes a cache salt in each of them, which is what keeps tenants apart."""

HARMLESS = ("/v1/models", "/tokenize", "/detokenize")
"""What computes nothing that is kept."""

HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host", b"authorization"}
HOP_BY_HOP |= {b"x-api-key", b"upgrade", b"te", b"trailer", b"proxy-authorization", b"proxy-connection"}
LOST = "the replica was lost in the middle of the answer; send the request again"
_USAGE = re.compile(rb'"prompt_tokens":\s*(\d+)')


class Backend(Protocol):
    """Whatever sends a call to one of the replicas: Serve's handle, or one application in this process."""

    def send(self, call: RoutedCall, plan: Plan, session: str | None) -> AsyncIterator[Head | bytes]:
        """The answer: its head with a first piece, then the rest. Raises anything when the replica is lost."""
        ...

    async def metrics(self) -> list[tuple[str, str, float]]:
        """Of every replica: its name, its page of metrics, and the expected rebuild seconds that wait there."""
        ...


def refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in OpenAI's form."""
    kinds = {401: "authentication_error", 429: "rate_limit_error", 503: "service_unavailable"}
    error = {"message": message, "type": kinds.get(status, "invalid_request_error"), "param": None, "code": status}
    return JSONResponse({"error": error}, status, headers)


class Ingress:
    """Takes OpenAI requests to replicas. One an ingress process; `source` names it to the routers."""

    def __init__(self, config: ServiceConfig, backend: Backend, tenants: Tenants, source: str = "ingress") -> None:
        self.config = config
        self.tenants = tenants
        self.source = source
        self.homes = Homes()
        self.lineage = Lineage()
        self._backend = backend
        self._rate = Rate(config.requests_per_s, config.burst, time.monotonic)
        self._bytes_per_token = BYTES_PER_TOKEN

    def tenant(self, request: Request) -> Tenant | None | Response:
        """The caller's tenant, None where there are none, or the refusal of a caller who is nobody's."""
        if not self.tenants:
            return None
        if found := self.tenants.find(request.headers):
            return found
        return refused(401, "no or unknown bearer token; nothing was done", {"WWW-Authenticate": "Bearer"})

    async def openai(self, request: Request) -> Response:
        """Answer one request to the OpenAI API."""
        tenant = self.tenant(request)
        if isinstance(tenant, Response):
            return tenant
        name = tenant.name if tenant else None
        if wait_s := self._rate.wait_s(name, tenant.requests_per_s if tenant else None):
            return refused(429, "too many requests; try again later", {"Retry-After": retry_after(wait_s)})
        if name is not None and not isolated(request):
            return refused(
                403, f"{request.method} {request.url.path} keeps no tenants apart, so it is not offered here"
            )
        body = await read_body(request, self.config.max_body_bytes)
        if body is None:
            return refused(413, f"the body is larger than {self.config.max_body_bytes} bytes; nothing was done")
        job, plan = None, Plan(source=self.source)
        if request.method == "POST" and request.url.path in GENERATES:
            try:
                job, plan, body = self._prepare(name, request, body)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                return refused(400, f"the body cannot be used: {error}")
        headers = tuple((key, value) for key, value in request.headers.raw if key not in HOP_BY_HOP)
        call = RoutedCall(request.method, request.url.path, request.url.query.encode(), headers, body)
        return await self._answer(call, plan, job)

    async def metrics(self, request: Request) -> Response:
        """The metrics of all replicas, and the autoscaling signal."""
        if isinstance(tenant := self.tenant(request), Response):
            return tenant
        told = await self._backend.metrics()
        signal = waiting({name: seconds for name, _, seconds in told})
        return PlainTextResponse(merged({name: page for name, page, _ in told}) + signal)

    def _prepare(self, tenant: str | None, request: Request, raw: bytes) -> tuple[str, Plan, bytes]:
        """The session that a prompt belongs to, its plan, and the body as the engine shall see it."""
        body = msgspec.json.decode(raw, type=dict)
        if tenant is not None and body.get("previous_response_id") is not None:
            raise msgspec.ValidationError("previous_response_id may be another tenant's, so it is not taken here")
        headers = {key.replace("_", "-"): value for key, value in request.headers.items()}
        said = read_identity(headers, body)
        tree, session = (name and scoped(tenant, name) for name in (said.job, said.session))
        session = self.lineage.follow(tenant, body, session, tree)
        if write_identity(said, body, tenant):
            raw = msgspec.json.encode(body)
        return session, self.homes.plan(session, self._expected_tokens(body, raw), self.source, tree), raw

    def forget(self, tenant: str | None, job: str) -> None:
        """A job has ended: nothing of it comes back."""
        self.homes.ended(scoped(tenant, job))

    def _expected_tokens(self, body: dict[str, Any], raw: bytes) -> int:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            return len(prompt)
        return int(len(raw) / self._bytes_per_token) + 1

    async def _answer(self, call: RoutedCall, plan: Plan, job: str | None) -> Response:
        """Send the call; a replica that is lost before its first byte is replaced by another, once."""
        for attempt in (1, 2):
            parts = self._backend.send(call, plan, job)
            try:
                head = await anext(parts)
                assert isinstance(head, Head)
            except Exception as error:
                lost = plan.replica
                logger.warning("replica %s lost a request, attempt %d: %s", lost, attempt, type(error).__name__)
                if lost:
                    self.homes.lost(lost)
                    plan = Plan(plan.tokens, {}, None, plan.job, plan.source, plan.avoid | {lost})
                continue
            plan.started = True
            if job is not None and head.status == 200:
                self._learn(call, plan, head.body)
                self.homes.served(job, head.replica, plan.tokens, time.monotonic())
            return Relay(call.path, head, parts)
        return refused(503, "the replica that served this was lost, and so was a second one", {"Retry-After": "1"})

    def _learn(self, call: RoutedCall, plan: Plan, first: bytes) -> None:
        """The true number of prompt tokens, where the answer tells it, makes the next expectation better."""
        if found := _USAGE.search(first):
            plan.tokens = int(found[1])
            if call.body and plan.tokens:
                self._bytes_per_token += 0.1 * (len(call.body) / plan.tokens - self._bytes_per_token)


class Relay(Response):
    """Passes an answer on as it comes. Where a replica is lost in the middle, a stream ends with an error in its API's
    words, and anything else without an end: its client sees that something is missing.
    """

    def __init__(self, path: str, head: Head, parts: AsyncIterator[Head | bytes]) -> None:
        super().__init__(status_code=head.status)
        self._path, self._head, self._parts = path, head, parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head, latest = self._head, self._head.body
        headers = [*head.headers, (b"x-agentcache-replica", head.replica.encode())]
        try:
            await send({"type": "http.response.start", "status": head.status, "headers": headers})
            await send({"type": "http.response.body", "body": head.body, "more_body": True})
            try:
                async for part in self._parts:
                    assert isinstance(part, bytes)
                    latest = part or latest
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except Exception as error:
                logger.warning("replica %s lost in the middle of an answer: %s", head.replica, type(error).__name__)
                words = last_words(self._path, head.body, latest, LOST) if is_stream(head.headers) else None
                if words is None:
                    return  # a server closes the connection of an answer that has no end
                await send({"type": "http.response.body", "body": words, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._parts.aclose()  # type: ignore[attr-defined]


def isolated(request: Request) -> bool:
    """Whether a request can neither read nor time what another tenant has sent."""
    path = request.url.path
    return path in HARMLESS or (request.method == "POST" and path in GENERATES)


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None if it is larger than `limit` bytes: what is too large is not read to its end."""
    if (length := request.headers.get("content-length", "0")).isdigit() and int(length) > limit:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


def scoped(tenant: str | None, job: str) -> str:
    """A job's name among all tenants', as engines and the service scope it."""
    return messages.scoped(tenant or "", job)


__all__ = ["Backend", "Identity", "Ingress", "Relay", "refused", "scoped"]
