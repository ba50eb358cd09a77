"""The prices that an engine starts with: a profile that was asked for, or an estimate, which never ends a start."""

from typing import Any

from agentcache.cost import CostProfile, prior_of
from agentcache.vllm_plugin.compat import init_logger

logger = init_logger(__name__)

# What vLLM has made out of the configuration, by the names that `ModelShape` knows.
_SIZES = {
    "num_hidden_layers": "total_num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "total_num_attention_heads",
    "num_key_value_heads": "total_num_kv_heads",
    "head_dim": "head_size",
    "num_experts_per_tok": "num_experts_per_token",
}


def model_name(model: str) -> str:
    """What a profile calls the model: the last part of its hub name or folder, wherever that stands."""
    return model.rstrip("/").rpartition("/")[2]


def starting_profile(path: str | None, model_config: Any, block_size: int) -> CostProfile:
    """The measured profile at `path`, or where there is none an estimate.

    Raises `ConfigError` for a file that is no profile, or one of another model or block size.
    """
    if path is None:
        return estimate(model_config)
    profile = CostProfile.load(path)
    profile.check_for(model_name(model_config.model), block_size)
    return profile


def estimate(model_config: Any) -> CostProfile:
    """The prior of a model by its configuration as vLLM has read it, or that of a usual one, with a warning."""
    arch = model_config.model_arch_config
    sizes = {ours: getattr(arch, theirs, None) for ours, theirs in _SIZES.items()}
    try:
        config = model_config.hf_text_config.to_dict()
    except Exception:  # remote code's own class; what vLLM knows may do
        config = {}
    return prior_of(
        config | {name: size for name, size in sizes.items() if size}, lambda why: logger.warning("AgentCache: %s", why)
    )
