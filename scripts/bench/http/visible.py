"""A logits processor for benchmarks over HTTP: only tokens that are visible text, for clients that count text alone."""

from typing import Any

import torch

from agentcache.vllm_plugin.compat import BatchUpdate, LogitsProcessor


class Visible(LogitsProcessor):
    """Named to vLLM as `visible:Visible`, with this folder in PYTHONPATH."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        size = vllm_config.model_config.get_vocab_size()
        texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))]
        hidden = [not text.strip() or "\ufffd" in text for text in texts]
        self._hidden = torch.tensor(hidden + [True] * (size - len(hidden)), device=device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        pass

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill_(self._hidden, float("-inf"))
