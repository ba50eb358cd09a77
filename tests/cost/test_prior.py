"""The prior counts the parameters and the attention of a decoder as its authors do."""

from typing import Any

import pytest

from agentcache.cost import CostModel, ModelShape, flop_prior, prior_of
from agentcache.cost.prior import USUAL
from agentcache.errors import ConfigError

LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
}


def test_llama_8b() -> None:
    shape = ModelShape.from_hf_config(LLAMA_8B)
    # Per layer: q and o 2 x 4096 x 4096, k and v 2 x 4096 x 1024, three MLP matrices of 4096 x 14336.
    assert shape.active_parameters == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) == 6_979_321_856
    prior = flop_prior(shape, flops_per_s=148e12)
    assert prior.c_lin == pytest.approx(2 * 6_979_321_856 / (148e12 * 0.7))
    assert prior.c_att == pytest.approx(2 * 32 * 32 * 128 / (148e12 * 0.45))
    # Measured on that device: 1.09e-4 and 3.1e-9 (efficiencies 0.87 and 0.57); a prior may be a factor of 1.5 off.
    assert 1 < prior.c_lin / 1.09e-4 < 1.5
    assert 1 < prior.c_att / 3.1e-9 < 1.5


def test_experts_that_a_token_is_not_sent_to_cost_nothing() -> None:
    shape = ModelShape.from_hf_config(QWEN3_30B_A3B)
    assert (shape.mlp_width, shape.head_dim) == (8 * 768, 128)
    assert shape.active_parameters == 48 * (2048 * 128 * (2 * 32 + 2 * 4) + 3 * 2048 * 6144)
    shared = ModelShape.from_hf_config(QWEN3_30B_A3B | {"shared_expert_intermediate_size": 5632})
    assert shared.mlp_width == 8 * 768 + 5632
    assert ModelShape.from_hf_config(QWEN3_30B_A3B | {"n_shared_experts": 1}).mlp_width == 9 * 768


def test_the_device_does_not_change_the_order() -> None:
    shape = ModelShape.from_hf_config(LLAMA_8B)
    slow, fast = (CostModel(flop_prior(shape, flops_per_s=f), 16) for f in (1e12, 1e15))
    assert slow.b / slow.a == pytest.approx(fast.b / fast.a)


def test_text_part_of_a_multimodal_config() -> None:
    assert ModelShape.from_hf_config({"text_config": LLAMA_8B}) == ModelShape.from_hf_config(LLAMA_8B)


@pytest.mark.parametrize("broken", [{"hidden_size": None}, {"num_hidden_layers": "many"}, {"num_attention_heads": 0}])
def test_a_config_without_sizes_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(broken))):
        ModelShape.from_hf_config(LLAMA_8B | broken)


@pytest.mark.parametrize("config", [{}, LLAMA_8B | {"hidden_size": None}, {"text_config": [1]}, {"n_layer": 2}])
def test_without_sizes_there_is_a_prior_all_the_same_and_a_warning(config: dict[str, Any]) -> None:
    heard: list[str] = []
    assert prior_of(config, heard.append) == flop_prior(USUAL)
    (why,) = heard
    assert "stand in" in why


def test_a_config_with_sizes_warns_of_nothing() -> None:
    assert prior_of(LLAMA_8B, pytest.fail) == flop_prior(ModelShape.from_hf_config(LLAMA_8B))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Their authors' sizes; two matrices of four widths and four of one where nothing else is said.
        ({"n_layer": 12, "n_embd": 768, "n_head": 12, "n_inner": None}, 12 * 12 * 768**2),  # GPT-2
        ({"n_layer": 30, "hidden_size": 4096, "n_head": 32}, 30 * 12 * 4096**2),  # BLOOM-7B
        (
            {"num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "multi_query": True},
            32 * (2 * 4544**2 + 2 * 4544 * 64 + 8 * 4544**2),  # Falcon-7B: one head of keys
        ),
        (
            {"n_layers": 40, "d_model": 6144, "n_heads": 48, "attn_config": {"kv_n_heads": 8}}
            | {"ffn_config": {"ffn_act_fn": {"name": "silu"}, "ffn_hidden_size": 10752, "moe_top_k": 4}},
            40 * (2 * 6144**2 + 2 * 6144 * 1024 + 3 * 6144 * 4 * 10752),  # DBRX: 36 billion of 132 are active
        ),
    ],
    ids=["gpt2", "bloom", "falcon", "dbrx"],
)
def test_other_families_call_their_sizes_otherwise(config: dict[str, Any], parameters: int) -> None:
    assert ModelShape.from_hf_config(config).active_parameters == parameters
