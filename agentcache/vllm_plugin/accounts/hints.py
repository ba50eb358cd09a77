"""What a request says about its job: optional claims that may cost residency when wrong, never output."""

from dataclasses import dataclass, field
from typing import Any

from agentcache.vllm_plugin.compat import Request

MAX_ID_BYTES = 256


@dataclass(frozen=True, slots=True)
class Hints:
    """A request's claims; None where nobody said. `outcomes` counts them by (source, action, outcome)."""

    job: str | None = None
    context: str | None = None
    tool_ran: str | None = None
    tool_next: str | None = None
    last: bool | None = None
    outcomes: dict[tuple[str, str, str], int] = field(default_factory=dict, compare=False)


def read_hints(request: Request) -> Hints:
    """Read Continuum's fields from `vllm_xargs` and vLLM's own `session_id`.

    A malformed value counts as not said. Ids are scoped by `cache_salt`, so that nobody claims another's job.
    """
    params = request.sampling_params
    extra: dict[str, Any] = (params.extra_args if params else None) or {}
    outcomes: dict[tuple[str, str, str], int] = {}
    for name, action in _ACTIONS.items():
        if (value := extra.get(name)) is not None:
            fine = (_flag(value) if name == "is_last_step" else _id(value)) is not None
            said = ("vllm_xargs", action, "accepted" if fine else "rejected")
            outcomes[said] = outcomes.get(said, 0) + 1
    if request.session_id is not None:
        outcomes["session_id", "identity", "accepted" if _id(request.session_id) else "rejected"] = 1
    session = _id(request.session_id) or _id(extra.get("session_id"))
    job = _id(extra.get("job_id"))
    salt = request.cache_salt or ""

    def scoped(name: str | None) -> str | None:
        return f"{salt}/{name}" if name else None

    return Hints(
        job=scoped(job or session),
        context=scoped(session),
        tool_ran=_id(extra.get("last_func_call")),
        tool_next=_id(extra.get("this_func_call")),
        last=_flag(extra.get("is_last_step")),
        outcomes=outcomes,
    )


_ACTIONS = {
    "job_id": "identity",
    "session_id": "identity",
    "last_func_call": "tool",
    "this_func_call": "tool",
    "is_last_step": "end",
}
"""The fields of `vllm_xargs` that we read, and what kind of claim each is."""


def _flag(value: Any) -> bool | None:
    """vLLM turns JSON booleans inside vllm_xargs into 0 and 1; some clients write words."""
    if isinstance(value, str):
        return _WORDS.get(value.lower()) if len(value) < 8 else None
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _id(value: Any) -> str | None:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.encode()) <= MAX_ID_BYTES:
        return None
    return value
