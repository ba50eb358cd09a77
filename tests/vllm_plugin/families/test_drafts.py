"""Drafts by n-grams, a model and a random head."""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["ngram", "draft-model", "eagle"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
