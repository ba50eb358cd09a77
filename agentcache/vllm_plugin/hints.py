"""What a request says about its job: optional claims that may cost residency when wrong, never output."""

from dataclasses import dataclass
from typing import Any

from agentcache.vllm_plugin.compat import Request

MAX_ID_BYTES = 256


@dataclass(frozen=True, slots=True)
class Hints:
    """A request's claims; None where nobody said."""

    job: str | None = None
    context: str | None = None
    tool_ran: str | None = None
    tool_next: str | None = None
    last: bool | None = None


def read_hints(request: Request) -> Hints:
    """Read Continuum's fields from `vllm_xargs` and vLLM's own `session_id`.

    A malformed value counts as not said. Ids are scoped by `cache_salt`, so that nobody claims another's job.
    """
    params = request.sampling_params
    extra: dict[str, Any] = (params.extra_args if params else None) or {}
    session = _id(request.session_id) or _id(extra.get("session_id"))
    job = _id(extra.get("job_id"))
    last = extra.get("is_last_step")
    salt = request.cache_salt or ""

    def scoped(name: str | None) -> str | None:
        return f"{salt}/{name}" if name else None

    return Hints(
        job=scoped(job or session),
        context=scoped(session),
        tool_ran=_id(extra.get("last_func_call")),
        tool_next=_id(extra.get("this_func_call")),
        # vLLM turns JSON booleans inside vllm_xargs into 0 and 1.
        last=bool(last) if last in (0, 1) else None,
    )


def _id(value: Any) -> str | None:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.encode()) <= MAX_ID_BYTES:
        return None
    return value
