"""The families: a tiny model of each, the engine it takes, and the best level that it is shown to run at."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """`pool`: blocks, so few that contexts evict each other; `groups`: vLLM's KV groups by kind, with their number.

    `margin`: log-probability by which the cold answer must lead for another one to be wrong. `lifted`, `drafter`: names
    in the modules that are called so. `connector`: in which way a KV connector in memory gives back what it was given.
    """

    model: str
    level: str
    groups: dict[str, int]
    pool: int
    engine: dict[str, Any] = field(default_factory=dict)
    margin: float = 1e-3
    lifted: str | None = None
    drafter: str | None = None
    connector: str | None = None


FULL = "FullAttentionSpec"
BF16 = {"dtype": "bfloat16"}  # vLLM's gated delta nets compute in no other on a CPU

FAMILIES = {
    "llama": Family("tiny-llama", "holes", {FULL: 1}, 48),
    "qwen3": Family("tiny-qwen3", "holes", {FULL: 1}, 48),
    "qwen3-moe": Family("tiny-moe", "holes", {FULL: 1}, 48),
    "gemma3": Family("tiny-gemma3", "order", {"SlidingWindowSpec": 5, FULL: 1}, 140),
    "gpt-oss": Family("tiny-gpt-oss", "order", {"SlidingWindowSpec": 1, FULL: 1}, 56),
    "llama4": Family("tiny-llama4", "order", {"ChunkedLocalAttentionSpec": 3, FULL: 1}, 100),
    "deepseek-v3": Family(
        "tiny-deepseek-v3", "order", {"MLAAttentionSpec": 1}, 96, {"attention_backend": "CPU_MLA"}, 0.3, "MLA"
    ),
    "qwen3-next": Family("tiny-qwen3-next", "order", {"MambaSpec": 3, FULL: 1}, 36, BF16, 0.1),
    "nemotron-h": Family("tiny-nemotron-h", "order", {"MambaSpec": 1, FULL: 1}, 40, lifted="Mamba 2"),
    "granite-hybrid": Family("tiny-granite-hybrid", "order", {"MambaSpec": 3, FULL: 1}, 50, lifted="Mamba 2"),
    "ngram": Family("tiny-llama", "holes", {FULL: 1}, 48, drafter="ngram"),
    "draft-model": Family("tiny-llama", "order", {FULL: 1}, 48, drafter="draft_model"),
    "connector": Family("tiny-llama", "order", {FULL: 1}, 48, lifted="connectors", connector="sync"),
    "late-connector": Family("tiny-llama", "order", {FULL: 1}, 48, lifted="connectors", connector="late"),
    "failing-connector": Family("tiny-llama", "order", {FULL: 1}, 48, lifted="connectors", connector="failing"),
    "eagle": Family("tiny-llama", "order", {FULL: 1}, 48, drafter="eagle"),
}
