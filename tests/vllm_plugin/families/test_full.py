"""Full attention, dense and of experts.

Not latents: stock vLLM's own answers for them change with the size of a chunk on a CPU, so that nothing can be
compared there (`deepseek-v3` in the table, to be run by hand).
"""

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-moe"])
def test_tokens_are_those_of_stock_vllm(name: str) -> None:
    from tests.vllm_plugin.families.shown import tokens_are_those_of_stock_vllm

    tokens_are_those_of_stock_vllm(name)
