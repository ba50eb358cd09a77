"""A tiny random DeciLM (Nemotron-NAS): full attention in every layer, and in no two alike the same number of KV heads.

vLLM puts such layers into one group, a block of which is a page of each. The architecture's configuration is code in
the model's folder, as its authors have it.
"""

import json
from pathlib import Path

from agentcache.vllm_plugin.launch.recipes import RECIPES

HEADS_IN_GROUP = (2, 4, 1, 2)
"""Query heads to one KV head, by layer; of four."""

CONFIGURATION = """
from types import SimpleNamespace

from transformers import LlamaConfig


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, heads_in_group=(), **given):
        super().__init__(**given)
        self.heads_in_group = heads_in_group

    @property
    def block_configs(self):
        ffn = SimpleNamespace(no_op=False, intermediate_size=self.intermediate_size)
        return [
            SimpleNamespace(attention=SimpleNamespace(no_op=False, n_heads_in_group=count), ffn=ffn)
            for count in self.heads_in_group
        ]
"""


def build(folder: Path) -> str:
    """The model's folder, with what vLLM wants of `trust_remote_code`; without a tokenizer."""
    import torch
    import transformers
    from safetensors.torch import save_file

    sizes = {
        name: value for name, value in RECIPES["tiny-llama"].items() if name not in ("arch", "num_key_value_heads")
    }
    config = transformers.LlamaConfig(**sizes)
    torch.manual_seed(2)
    weights = transformers.LlamaForCausalLM(config).float().state_dict()
    for layer, count in enumerate(HEADS_IN_GROUP):
        for name in ("k_proj", "v_proj"):
            heads = config.num_attention_heads // count
            where = f"model.layers.{layer}.self_attn.{name}.weight"
            weights[where] = weights[where][: heads * config.head_dim]
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "configuration_decilm.py").write_text(CONFIGURATION)
    told = config.to_dict() | {
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "model_type": "nemotron-nas",
        "num_key_value_heads": None,
        "heads_in_group": HEADS_IN_GROUP,
    }
    (folder / "config.json").write_text(json.dumps(told))
    return str(folder)
