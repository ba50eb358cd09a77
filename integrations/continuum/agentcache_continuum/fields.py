"""Continuum's four request fields, and how they travel where a server takes strings and numbers only."""

from typing import Any

FIELDS = ("job_id", "last_func_call", "this_func_call", "is_last_step")
"""The program; the tool whose result the turn carries; the tool that its output calls; whether it is the last."""

MAX_BYTES = 256

_TOO_LONG = MAX_BYTES + 1


def as_xarg(name: str, value: Any) -> str | int | None:
    """A field's value as vLLM's `vllm_xargs` can hold it; None where nothing was said.

    What makes no sense is passed on in a form that is small, and that the engine still counts as senseless.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return int(value) if name == "is_last_step" else ""
    if name == "is_last_step":
        return value if isinstance(value, int) and value in (0, 1) else str(value)[:_TOO_LONG]
    if isinstance(value, int):
        value = str(value) if abs(value) < 10**30 else ""
    return value[:_TOO_LONG] if isinstance(value, str) else ""
