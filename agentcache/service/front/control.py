"""The control API: what clients say about their jobs, and what they may look at. JSON under /agentcache/v1."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from agentcache.api.messages import (
    Action,
    Answer,
    EndJob,
    EndTurn,
    Explanation,
    FinishTool,
    ReleaseJob,
    RetainJob,
    Snapshot,
    StartJob,
    StartTool,
    StartTurn,
)
from agentcache.service.front.ingress import Ingress, read_body, refused
from agentcache.service.front.tenants import Rate, retry_after

logger = logging.getLogger(__name__)

PREFIX = "/agentcache/v1"
MAX_BODY_BYTES = 4096
MAX_CONTEXTS = 1000
MAX_OPEN = 256
"""Calls that wait for the service at a time; more are turned away, so that a flood ends here."""

ACTIONS: tuple[tuple[str, str, type[Action], str], ...] = (
    ("POST", "/jobs/{job}", StartJob, "A job begins"),
    ("DELETE", "/jobs/{job}", EndJob, "A job has ended"),
    ("POST", "/jobs/{job}/turns", StartTurn, "A turn is about to be sent"),
    ("POST", "/jobs/{job}/turns/end", EndTurn, "A turn has been answered"),
    ("POST", "/jobs/{job}/tools/{tool}", StartTool, "A tool begins to run, for an expected duration"),
    ("DELETE", "/jobs/{job}/tools/{tool}", FinishTool, "A tool has finished"),
    ("POST", "/jobs/{job}/retain", RetainJob, "Keep a job's contexts: priority, duration, lease"),
    ("POST", "/jobs/{job}/release", ReleaseJob, "Give up a job's leases and its place in memory"),
)
"""Method, path, message, summary. The path's names are fields of the message; the others come in the body."""


Endpoint = Callable[..., Awaitable[Response]]


class Service(Protocol):
    """The residency service as the control API asks it; any call may raise when it is away."""

    async def apply(self, action: Action, tenant: str) -> Answer: ...

    async def snapshot(self, tenant: str | None, limit: int) -> Snapshot: ...

    async def explain(self, tenant: str, job: str) -> Explanation: ...


class Control:
    """Checks who calls and how often, reads what they say, and asks the service."""

    def __init__(self, ingress: Ingress, service: Service, rate: Rate, timeout_s: float = 5.0) -> None:
        self._ingress, self._service, self._rate, self._timeout_s = ingress, service, rate, timeout_s
        self._open = 0

    async def act(self, request: Request, kind: type[Action] | None = None) -> Response:
        """Carry out one action; its outcome is in the answer, whatever it is."""
        tenant = self._admitted(request)
        if isinstance(tenant, Response):
            return tenant
        raw = await read_body(request, MAX_BODY_BYTES)
        if raw is None:
            return refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes; nothing was done")
        try:
            said = msgspec.json.decode(raw, type=dict) if raw.strip() else {}
            if key := request.headers.get("idempotency-key"):
                said.setdefault("request_id", key)
            action = read_action(said, request.path_params, kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return refused(422, f"{error}; nothing was done")
        answered = await self._ask(lambda: self._service.apply(action, tenant or ""))
        if isinstance(action, EndJob):
            self._ingress.forget(tenant, action.job)
        return answered

    async def snapshot(self, request: Request, limit: int) -> Response:
        tenant = self._admitted(request)
        if isinstance(tenant, Response):
            return tenant

        async def look() -> Snapshot:
            seen = await self._service.snapshot(tenant, limit)
            # Tools and their pauses are everybody's together, so a tenant is not shown them.
            return seen if tenant is None else msgspec.structs.replace(seen, pauses=(), engines=(), counts={})

        return await self._ask(look)

    async def explain(self, request: Request, job: str) -> Response:
        tenant = self._admitted(request)
        if isinstance(tenant, Response):
            return tenant
        return await self._ask(lambda: self._service.explain(tenant or "", job))

    def _admitted(self, request: Request) -> str | None | Response:
        """The caller's tenant, or the refusal of a caller who is nobody's or comes too often."""
        found = self._ingress.tenant(request)
        if isinstance(found, Response):
            return found
        tenant = found.name if found else None
        if wait_s := self._rate.wait_s(tenant, found.control_per_s if found else None):
            return refused(429, "too many control calls; try again later", {"Retry-After": retry_after(wait_s)})
        if self._open >= MAX_OPEN:
            return refused(429, "too many control calls wait; try again later", {"Retry-After": "1"})
        return tenant

    async def _ask(self, call: Callable[[], Awaitable[Answer | Snapshot | Explanation]]) -> Response:
        self._open += 1
        try:
            found = await asyncio.wait_for(call(), self._timeout_s)
        except Exception as error:
            logger.warning("the residency service did not answer: %s", type(error).__name__)
            return refused(503, "the residency service does not answer; requests are served without it")
        finally:
            self._open -= 1
        return Response(msgspec.json.encode(found), media_type="application/json")


def read_action(said: dict[str, Any], path: dict[str, Any], kind: type[Action] | None) -> Action:
    """An action of a kind from a body and the names in the path; of any kind (None) if the body names it.

    Raises `msgspec.ValidationError`, also for fields that it does not have.
    """
    if kind is not None:
        said = {**said, **path, "action": kind.__struct_config__.tag}
    action: Action = msgspec.convert(said, Action)
    if unknown := set(said) - set(action.__struct_fields__) - {"action"}:
        raise msgspec.ValidationError(f"unknown fields {', '.join(sorted(unknown))}")
    if not action.job.isprintable():
        raise msgspec.ValidationError("a job's name has no control characters")
    return action


def routes(control: Control) -> APIRouter:
    """The API's routes, described for OpenAPI by the messages themselves."""
    router = APIRouter(prefix=PREFIX, tags=["control"])

    def add(method: str, path: str, call: Endpoint, summary: str, answer: type, **described: Any) -> None:
        router.add_api_route(
            path,
            call,
            methods=[method],
            summary=summary,
            name=summary,
            response_class=JSONResponse,
            responses={200: _content(answer), **_ERRORS},
            openapi_extra=described,
        )

    for method, path, kind, summary in ACTIONS:
        described = {"parameters": _path_parameters(path), "requestBody": _content(kind, path)}
        add(method, path, _acting(control, kind), summary, Answer, **described)
    add("POST", "/actions", _acting(control), "Any action, named in its body", Answer, requestBody=_content(Action))

    async def snapshot(request: Request, limit: int = 100) -> Response:
        return await control.snapshot(request, min(max(limit, 0), MAX_CONTEXTS))

    async def explain(request: Request, job: str) -> Response:
        return await control.explain(request, job)

    add("GET", "/snapshot", snapshot, "What is resident where", Snapshot)
    add("GET", "/explain", explain, "Why a job's contexts are where they are", Explanation)
    return router


def _acting(control: Control, kind: type[Action] | None = None) -> Endpoint:
    async def act(request: Request) -> Response:
        return await control.act(request, kind)

    return act


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No or unknown bearer token"},
    413: {"description": "The body is too large"},
    422: {"description": "Not such a message"},
    429: {"description": "Too many calls; see Retry-After"},
    503: {"description": "The residency service does not answer"},
}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _content(kind: Any, path: str = "") -> dict[str, Any]:
    """A message's JSON schema as OpenAPI content, without the fields that the path carries."""
    schema = msgspec.json.schema(kind)
    main = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
    inline = _inlined(main, schema.get("$defs", {}))
    for name in [part[1:-1] for part in path.split("/") if part.startswith("{")] + ["action"] * bool(path):
        inline.get("properties", {}).pop(name, None)
        if name in inline.get("required", []):
            inline["required"].remove(name)
    return {"description": getattr(kind, "__name__", "An action"), "content": {"application/json": {"schema": inline}}}


def _inlined(schema: Any, defs: dict[str, Any]) -> Any:
    """The schema with its references replaced: messages do not contain themselves."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(defs[schema["$ref"].rpartition("/")[2]], defs)
        return {name: _inlined(value, defs) for name, value in schema.items()}
    return [_inlined(value, defs) for value in schema] if isinstance(schema, list) else schema
