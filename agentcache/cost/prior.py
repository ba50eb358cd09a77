"""A profile without measurements: floating-point operations of the model's shape over what a device can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError

# An order of eviction depends on the ratio of the two efficiencies alone; absolute seconds want a profile.
FLOPS_PER_S = 1e14
LINEAR_EFFICIENCY = 0.7
ATTENTION_EFFICIENCY = 0.45


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that decide what a token costs.

    `mlp_width` is the width of all MLPs that one token passes through in a layer: for a mixture of experts, the
    width of one expert times the experts a token is sent to, plus shared ones.
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
        """Read a Hugging Face `config.json` of a Llama-, Qwen- or Mixtral-like decoder.

        Raises `ConfigError` naming the field that is missing.
        """

        def need(*names: str) -> int:
            for name in names:
                if config.get(name) is not None:
                    return int(config[name])
            raise ConfigError(
                f"the model's config has no {' or '.join(names)}, so its cost cannot be estimated",
                hint="give a measured cost profile",
            )

        hidden, heads = need("hidden_size", "n_embd"), need("num_attention_heads", "n_head")
        experts = config.get("num_experts_per_tok")
        if experts:
            width = int(experts) * need("moe_intermediate_size", "intermediate_size")
            width += int(config.get("shared_expert_intermediate_size") or 0)
        else:
            width = int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
        return cls(
            layers=need("num_hidden_layers", "n_layer"),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            mlp_width=width,
            name=str(config.get("model_type", "")),
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with, embedding and LM head left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp_width)


def flop_prior(shape: ModelShape, flops_per_s: float = FLOPS_PER_S) -> CostProfile:
    """Estimate a profile: c_lin = 2 P / (F eta_lin), c_att = 2 layers heads head_dim / (F eta_att)."""
    return CostProfile(
        c_lin=2 * shape.active_parameters / (flops_per_s * LINEAR_EFFICIENCY),
        c_att=2 * shape.layers * shape.heads * shape.head_dim / (flops_per_s * ATTENTION_EFFICIENCY),
        model=shape.name,
        source="flop-prior",
    )
