"""Gated delta nets and Mamba 2 beside full attention."""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["qwen3-next", "nemotron-h", "granite-hybrid"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
