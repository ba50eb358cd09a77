"""Sliding windows, with sinks and without, and chunks, beside full attention."""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "llama4"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
