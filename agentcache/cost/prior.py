"""A profile without measurements: floating-point operations of the model's shape over what a device can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError

# What families call a size. Dotted names stand inside an object.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "attn_config.kv_n_heads")
_MLP = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "ffn_config.ffn_hidden_size")
_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "ffn_config.moe_top_k")
_ACTIVATION = ("hidden_act", "activation_function", "activation", "ffn_config.ffn_act_fn.name")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that decide what a token costs.

    `mlp_width` is the width of all MLPs that one token passes through in a layer: for a mixture of experts, the
    width of one expert times the experts a token is sent to, plus the shared ones. `gated` MLPs have 3 matrices of
    that width, others 2.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    name: str = ""
    gated: bool = True

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Read a Hugging Face `config.json`, by any family's names; what it leaves out is what most decoders have.

        Raises `ConfigError` naming what is missing or no positive integer of layers, hidden size and heads.
        """
        config = config.get("text_config") or config

        def size(*names: str) -> int | None:
            found = (_look_up(config, name) for name in names)
            return next((value for value in found if isinstance(value, int) and value > 0), None)

        def need(*names: str) -> int:
            if (value := size(*names)) is None:
                raise ConfigError(
                    f"the model's config has no positive {' or '.join(names)}, so its cost cannot be estimated",
                    hint="give a measured cost profile",
                )
            return value

        hidden, heads = need(*_HIDDEN), need(*_HEADS)
        kv_heads = size(*_KV_HEADS)
        if not config.get("new_decoder_architecture") and config.get("multi_query"):  # Falcon, GPTBigCode
            kv_heads = 1
        width = size(*_MLP) or int(hidden * (config.get("expansion_ratio") or 4))
        if experts := size(*_EXPERTS):
            width = (experts + (size("n_shared_experts") or 0)) * (size("moe_intermediate_size") or width)
            width += size("shared_expert_intermediate_size") or 0
        # Families that call the width so have gates, but for those that name another activation.
        usual = "silu" if "intermediate_size" in config else "gelu"
        activation = next((act for act in (_look_up(config, name) for name in _ACTIVATION) if act), usual)
        return cls(
            layers=need(*_LAYERS),
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads or heads,
            head_dim=size("head_dim") or max(hidden // heads, 1),
            mlp_width=width,
            name=str(config.get("model_type", "")),
            gated=activation in ("silu", "swish") or "hidden_activation" in config,  # the latter: Gemma
        )

    @property
    def kv_values(self) -> int:
        """Keys and values of one token, in all layers, where attention is full."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with, embedding and LM head left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.mlp_width)


def _look_up(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


USUAL = ModelShape(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, mlp_width=14336)
"""A decoder of 8 billion parameters: what a model is taken for whose configuration says nothing that we know."""


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


def prior_of(config: Mapping[str, Any], warn: Callable[[str], None]) -> CostProfile:
    """The prior of a model by its `config.json`; where that says too little, that of `USUAL`, and `warn` hears why."""
    try:
        shape = ModelShape.from_hf_config(config)
    except Exception as error:  # a stranger's file, and prices decide what is kept, never whether it is right
        warn(f"{error}; the prices of a model of 8 billion parameters stand in, `agentcache profile` measures them")
        shape = USUAL
    return flop_prior(shape)
