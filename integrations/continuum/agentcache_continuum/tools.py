"""Which tool an output calls: from OpenAI and Anthropic messages, and from bare text where there is nothing else."""

import json
import re
from collections.abc import Mapping
from typing import Any

_BASH = re.compile(r"```bash\s*\n(.*?)\n```", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)

MAX_TEXT = 200_000


def tool_in_text(text: str | None) -> str | None:
    """The tool's name in an output: that of the first `<tool_call>`, or the first word of the only bash block.

    None if neither is there. Several calls are one pause, and their first names it.
    """
    if not text or len(text) > MAX_TEXT:
        return None
    for found in _CALL.finditer(text):
        try:
            name = json.loads(found[1]).get("name")
        except (ValueError, RecursionError):
            continue
        if isinstance(name, str) and name:
            return name
    blocks = _BASH.findall(text)
    words = blocks[0].split() if len(blocks) == 1 else []
    return words[0] if words else None


def tool_in_answer(answer: Mapping[str, Any]) -> tuple[str | None, bool | None]:
    """The tool that an API's answer calls, and whether the answer ends its turn; None where it does not say.

    Takes OpenAI chat completions, OpenAI responses and Anthropic messages, as decoded JSON.
    """
    if choices := answer.get("choices"):
        choice = choices[0]
        message = choice.get("message") or {}
        calls = message.get("tool_calls") or []
        name = _named([(call.get("function") or call.get("custom") or {}) for call in calls])
        text = message.get("content") if "message" in choice else choice.get("text")
        name = name or tool_in_text(text if isinstance(text, str) else None)
        reason = choice.get("finish_reason")
        return name, None if name is None and reason not in ("stop", "tool_calls") else name is None
    if isinstance(answer.get("output"), list):
        items = answer["output"]
        name = _named([item for item in items if str(item.get("type", "")).endswith("_call")])
        return name, None if name is None and answer.get("status") != "completed" else name is None
    if "stop_reason" in answer:
        name = _named([part for part in answer.get("content") or [] if part.get("type") == "tool_use"])
        reason = answer["stop_reason"]
        return name, None if name is None and reason not in ("end_turn", "stop_sequence") else name is None
    return None, None


def _named(calls: list[Any]) -> str | None:
    return next((str(call["name"]) for call in calls if call.get("name")), None)
