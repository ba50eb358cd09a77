"""Forced outputs: a logits processor that makes a request answer what was recorded, in stock vLLM too."""

from typing import Any

import torch

from agentcache.vllm_plugin.compat import BatchUpdate, LogitsProcessor, MoveDirectionality
from agentcache_workloads.replay.spec import KEY


class ForcedOutput(LogitsProcessor):
    """Named to vLLM as `agentcache_workloads.replay.engines.vllm.forced:ForcedOutput`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        # Row of the batch -> (tokens to say, tokens said: vLLM's own list, which grows).
        self._rows: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for row in batch_update.removed:
            rows.pop(row, None)
        for row, params, _, said in batch_update.added:
            forced = (params.extra_args or {}).get(KEY)
            rows.pop(row, None)
            if forced:
                rows[row] = (forced, said)
        for source, target, direction in batch_update.moved:
            moved, replaced = rows.pop(source, None), rows.pop(target, None)
            if moved:
                rows[target] = moved
            if replaced and direction is MoveDirectionality.SWAP:
                rows[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (forced, said) in self._rows.items():
            if len(said) < len(forced):
                logits[row] = float("-inf")
                logits[row, forced[len(said)]] = 0.0
        return logits
