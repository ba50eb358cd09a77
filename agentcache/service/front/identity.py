"""Who a request belongs to: claims in its body and headers, made into the fields that the engine reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_ID_BYTES = 256

TREE_HEADERS = ("x-session-id", "x-claude-code-session-id", "session-id", "x-correlation-id")
"""Headers that name a whole tree of agents, the most trusted first: parents and sub-agents send the same one.

`_` stands for `-` where a proxy has swapped them.
"""

BRANCH_HEADERS = ("x-dynamo-session-id",)
"""Headers that name one agent of a tree."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A request's job, which is a tree of agents, and the session of the one who asks; None where nobody said.

    Which agent of a job asks, where only the job is known, the prompt says: it goes on from that agent's last one.
    """

    job: str | None = None
    session: str | None = None


def read_identity(headers: Mapping[str, str], body: Mapping[str, Any]) -> Identity:
    """The claims, by source in the order of trust; a malformed one counts as not said.

    `headers`: names in lower case with hyphens.
    """
    xargs = _dict(body.get("vllm_xargs"))
    ours = _dict(_dict(body.get("kv_transfer_params")).get("agentcache"))
    job = checked_id(ours.get("job")) or checked_id(xargs.get("job_id"))
    session = checked_id(xargs.get("session_id")) or checked_id(body.get("session_id"))
    tree, branch = _first(headers, TREE_HEADERS), _first(headers, BRANCH_HEADERS)
    return Identity(job or session or tree or branch, session or branch)


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


def _first(headers: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := checked_id(headers.get(name)))), None)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
