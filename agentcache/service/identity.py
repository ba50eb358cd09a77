"""Who a request belongs to: claims in its body and headers, made into the fields that the engine reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ID_BYTES = 256

SESSION_HEADERS = (
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "x-correlation-id",
    "x-dynamo-session-id",
)
"""Headers that name a session, the most trusted first; `_` stands for `-` where a proxy has swapped them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A request's job and the session in it; None where nobody said."""

    job: str | None = None
    session: str | None = None


def read_identity(headers: Mapping[str, str], body: Mapping[str, Any]) -> Identity:
    """The claims, by source in the order of trust; a malformed one counts as not said.

    `headers`: names in lower case with hyphens.
    """
    xargs = _dict(body.get("vllm_xargs"))
    ours = _dict(_dict(body.get("kv_transfer_params")).get("agentcache"))
    session = (
        checked_id(xargs.get("session_id"))
        or checked_id(body.get("session_id"))
        or next((name for key in SESSION_HEADERS if (name := checked_id(headers.get(key)))), None)
    )
    return Identity(checked_id(ours.get("job")) or checked_id(xargs.get("job_id")) or session, session)


def write_identity(identity: Identity, body: dict[str, Any], tenant: str | None) -> bool:
    """Say it to the engine: ids in `vllm_xargs`, the tenant in `cache_salt`. True if the body has changed.

    The salt keeps tenants' blocks and jobs apart, so it is never the client's alone.
    """
    changed = False
    if tenant is not None:
        salt = body.get("cache_salt")
        body["cache_salt"] = f"{tenant}.{salt}" if isinstance(salt, str) and salt else tenant
        changed = True
    xargs = body.get("vllm_xargs", {})
    if isinstance(xargs, dict):  # anything else is vLLM's to refuse
        said = {"job_id": identity.job, "session_id": identity.session}
        if new := {name: value for name, value in said.items() if value is not None and xargs.get(name) != value}:
            body["vllm_xargs"] = xargs | new
            changed = True
    return changed


def checked_id(value: Any) -> str | None:
    """An id as it is allowed: 1 to 256 bytes of UTF-8 without control characters."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.encode()) <= MAX_ID_BYTES:
        return None
    return value


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
