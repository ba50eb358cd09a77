"""The engines in which cases run, and how many cases each gets."""

from collections.abc import Sequence
from typing import Any

import msgspec

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.lab.verify.engine.cases import Setting

MODELS = ("tiny-llama", "tiny-qwen3", "tiny-moe")

ALL = (
    Setting("tiny-llama", "float32"),
    Setting("tiny-llama", "float32", "async", order="priority"),
    Setting("tiny-llama", "float32", mode="sequential", worker="stock"),
    Setting("tiny-llama", "bfloat16", "async", "sequential"),
    Setting("tiny-qwen3", "float32", "async"),
    Setting("tiny-qwen3", "float32", mode="sequential", order="priority", policy="lru-holes"),
    Setting("tiny-qwen3", "bfloat16", order="priority"),
    Setting("tiny-moe", "float32", policy="asymcache"),
    Setting("tiny-moe", "float32", "async", "sequential"),
    Setting("tiny-moe", "bfloat16", "async"),
    Setting("tiny-llama", "float32", "async", order="priority", host_memory=0.01),
    Setting("tiny-llama", "float32", runner="v2"),
    Setting("tiny-llama", "float32", "async", runner="v2"),
    Setting("tiny-llama", "float32", order="priority", threshold=32),
    Setting("tiny-qwen3", "float32", "async", "sequential", order="priority", policy="lru-holes", threshold=64),
)
"""Each model in both precisions, each scheduler with each mode, both runners; kernels of the second are interpreted.

In those with a threshold, requests are preempted in the step that they were scheduled in, and stock vLLM runs beside.
"""

INTERPRETED_SHARE = 0.25
"""Cases of a setting of the second runner, to one of the first: it takes many times as long for a token."""
BESIDE_SHARE = 0.5
"""Cases of a setting in which stock vLLM runs them too."""


def choose(model: str | None = None, **wanted: Any) -> list[Setting]:
    """The settings in which each field has the wanted value, None: any. Another model takes tiny-llama's settings.

    Raises `ConfigError` where there is none.
    """
    settings: Sequence[Setting] = ALL
    if model is not None:
        like = model if model in MODELS else "tiny-llama"
        settings = [msgspec.structs.replace(setting, model=model) for setting in ALL if setting.model == like]
    asked = {name: value for name, value in wanted.items() if value is not None}
    chosen = [one for one in settings if all(getattr(one, name) == value for name, value in asked.items())]
    if not chosen:
        words = ", ".join(f"{name} {value}" for name, value in {"model": model, **asked}.items() if value)
        raise ConfigError(
            f"no setting of --paths all has {words}; nothing was started",
            hint="leave one of these flags out, or verify it by --paths default",
        )
    return chosen


def spread(patterns: int, settings: Sequence[Setting]) -> list[int]:
    """How many of `patterns` cases each setting runs: at least one, more than `patterns` if there are more settings."""
    weights = [
        INTERPRETED_SHARE if setting.runner == "v2" else BESIDE_SHARE if setting.beside else 1.0 for setting in settings
    ]
    more = max(0, patterns - len(settings))
    counts = [1 + int(more * weight / sum(weights)) for weight in weights]
    number = 0
    while sum(counts) < patterns:
        counts[number % len(counts)] += 1
        number += 1
    return counts
