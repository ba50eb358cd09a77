"""A profile without measurements: floating-point operations of the model's shape over what a device can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that decide what a token costs.

    `mlp_width` is the width of all MLPs that one token passes through in a layer: for a mixture of experts, the
    width of one expert times the experts a token is sent to, plus the shared ones.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    name: str = ""

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Read a Hugging Face `config.json` of a Llama-, Qwen-, Mixtral- or DeepSeek-MoE-like decoder.

        Raises `ConfigError` naming the field that is missing or no positive integer.
        """
        config = config.get("text_config") or config

        def need(*names: str) -> int:
            for name in names:
                value = config.get(name)
                if isinstance(value, int) and value > 0:
                    return value
            raise ConfigError(
                f"the model's config has no positive {' or '.join(names)}, so its cost cannot be estimated",
                hint="give a measured cost profile",
            )

        hidden, heads = need("hidden_size"), need("num_attention_heads")
        if config.get("num_experts_per_tok"):
            expert = need("moe_intermediate_size", "intermediate_size")
            width = (need("num_experts_per_tok") + (config.get("n_shared_experts") or 0)) * expert
            width += config.get("shared_expert_intermediate_size") or 0
        else:
            width = need("intermediate_size")
        return cls(
            layers=need("num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            mlp_width=width,
            name=str(config.get("model_type", "")),
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with, embedding and LM head left out; gated MLPs (3 matrices)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp_width)


def flop_prior(
    shape: ModelShape,
    flops_per_s: float = 1e14,
    linear_efficiency: float = 0.7,
    attention_efficiency: float = 0.45,
) -> CostProfile:
    """Estimate c_lin = 2 P / (F eta_lin) and c_att = 2 layers heads head_dim / (F eta_att); the rest is 0.

    F is the peak FLOP/s of all ranks. An order of eviction needs only the ratio c_att/c_lin, in which F cancels;
    absolute seconds want a measured profile.
    """
    return CostProfile(
        c_lin=2 * shape.active_parameters / (flops_per_s * linear_efficiency),
        c_att=2 * shape.layers * shape.heads * shape.head_dim / (flops_per_s * attention_efficiency),
        model=shape.name,
    )
