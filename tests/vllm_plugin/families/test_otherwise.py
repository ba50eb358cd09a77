"""Families that name their sizes otherwise than Llama: what they cost is known, they start, and nothing changes."""

from pathlib import Path
from typing import Any

import pytest

from agentcache.cost import ModelShape
from tests.vllm_plugin.families.otherwise import FAMILIES, build, config

transformers = pytest.importorskip("transformers", reason="the families' configurations are transformers'")

EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "dbrx"])
def test_parameters_are_those_that_transformers_builds(name: str) -> None:
    import torch

    made = config(name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made)
    weights = [(where, weight.numel()) for where, weight in model.named_parameters() if weight.ndim > 1]
    counted = sum(count for where, count in weights if not any(part in where for part in EMBEDDINGS))
    assert ModelShape.from_hf_config(made.to_dict()).active_parameters == counted


def test_dbrx_which_this_transformers_does_not_build() -> None:
    shape = ModelShape.from_hf_config(config("dbrx").to_dict())
    assert (shape.layers, shape.hidden, shape.heads) == (2, 64, 2)
    assert shape.mlp_width == 2 * 128  # two experts a token
    assert shape.gated


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["opt", "falcon", "bloom"])
def test_an_engine_starts_and_says_what_stock_vllm_says(name: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from tests.vllm_plugin.scenario import run

    spec: dict[str, Any] = {"model": build(name, tmp_path / name), "batches": 5, "pool": 60}
    plain = {"skip_tokenizer_init": True}
    stock = run(**spec, engine=plain)
    ours = run(**spec | {"pool": 40}, engine=plain | plugin_args({}))
    assert ours["classes"]["scheduler"].startswith("agentcache.")
    assert ours["after_hole"] > 0
    assert ours["tokens"] == stock["tokens"]
