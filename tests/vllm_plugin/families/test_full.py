"""Full attention, dense and of experts, and latents in its place."""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-moe", "deepseek-v3"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
