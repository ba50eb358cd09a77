"""A KV connector that gives back at once, in later steps, and not all."""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["connector", "late-connector", "failing-connector"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
