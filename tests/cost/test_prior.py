"""The prior counts the parameters and the attention of a decoder as its authors do."""

import pytest

from agentcache.cost import CostModel, ModelShape, flop_prior
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


@pytest.mark.parametrize("broken", [{"hidden_size": None}, {"num_hidden_layers": "many"}, {"intermediate_size": 0}])
def test_a_config_without_sizes_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(broken))):
        ModelShape.from_hf_config(LLAMA_8B | broken)
