"""The dialects in which a request over HTTP says what it claims: the same hints, in the fields of different clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIALECTS = ("vllm-xargs", "continuum", "session-id")
ORACLE = "expected_s"
"""Of `vllm_xargs`, in runs marked as oracle: the pause behind this turn, in seconds, as the trace will have it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What is added to a request: top-level fields of the body, `vllm_xargs`, headers."""

    body: dict[str, Any] = field(default_factory=dict)
    xargs: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def say(dialect: str, hints: Mapping[str, str | int], session: str, pause_s: float | None = None) -> Claims:
    """The claims of one turn; `session` is its agent branch, `pause_s` the true pause that follows (oracles only).

    `vllm-xargs`: all hints there, as vLLM has them reach the engine. `continuum`: top-level, with a Boolean end, as
    clients of Continuum's preview write them. `session-id`: a header with the branch, and nothing else.
    """
    foresight = {} if pause_s is None else {ORACLE: pause_s}
    if dialect == "session-id":
        return Claims(xargs=foresight, headers={"X-Session-ID": session})
    if dialect == "continuum":
        flags = {name: bool(value) for name, value in hints.items() if name == "is_last_step"}
        return Claims(body={**hints, **flags}, xargs=foresight)
    return Claims(xargs={**hints, **foresight})
