"""The dialects in which a request over HTTP says what it claims: the same hints, in the fields of different clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentcache_workloads.replay.spec import Dialect


@dataclass(frozen=True, slots=True)
class Claims:
    """What is added to a request: top-level fields of the body, `vllm_xargs`, headers."""

    body: dict[str, Any] = field(default_factory=dict)
    xargs: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def say(dialect: Dialect, hints: Mapping[str, str | int], session: str) -> Claims:
    """The claims of one turn; `session` is its agent branch.

    `vllm-xargs`: all hints there, as vLLM has them reach the engine. `continuum`: top-level, with a Boolean end, as
    clients of Continuum's preview write them. `session-id`: a header with the branch, and nothing else.
    """
    if dialect == "session-id":
        return Claims(headers={"X-Session-ID": session})
    if dialect == "continuum":
        flags = {name: bool(value) for name, value in hints.items() if name == "is_last_step"}
        return Claims(body={**hints, **flags})
    return Claims(xargs=dict(hints))
