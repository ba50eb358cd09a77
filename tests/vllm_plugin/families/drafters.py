"""Who drafts for the tiny Llama: n-grams of its own text, a model (itself, so that all is accepted), a random head."""

import json
import tempfile
from pathlib import Path
from typing import Any

from agentcache.vllm_plugin.launch.recipes import RECIPES
from agentcache.vllm_plugin.launch.tiny_models import model_dir


def speculative_config(drafter: str) -> dict[str, Any]:
    """vLLM's engine argument of this name."""
    drafts = {"method": drafter, "num_speculative_tokens": 3}
    if drafter == "ngram":
        return drafts | {"prompt_lookup_min": 1, "prompt_lookup_max": 3}
    return drafts | {"model": model_dir("tiny-llama") if drafter == "draft_model" else eagle_head()}


def eagle_head() -> str:
    """An EAGLE head with random weights as its authors would save it, one layer: the folder's path."""
    import torch
    import transformers
    from safetensors.torch import save_file

    sizes = RECIPES["tiny-llama"] | {"num_hidden_layers": 1}
    config = transformers.LlamaConfig(**{name: value for name, value in sizes.items() if name != "arch"})
    torch.manual_seed(1)
    weights = transformers.LlamaForCausalLM(config).float().model.state_dict()
    for without in ("norm.weight", "layers.0.input_layernorm.weight"):
        del weights[without]
    weights["fc.weight"] = torch.randn(config.hidden_size, 2 * config.hidden_size) * config.initializer_range
    folder = Path(tempfile.mkdtemp())
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["LlamaForCausalLM"]}))
    return str(folder)
