"""Tiny random models of families that name their sizes otherwise than Llama, as transformers builds them."""

import json
from pathlib import Path
from typing import Any

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": (
        "OPT",
        {
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    ),
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 2}),
    "gpt_bigcode": ("GPTBigCode", {"n_embd": 64, "n_layer": 2, "n_head": 2}),
    "gptj": ("GPTJ", {"n_embd": 64, "n_layer": 2, "n_head": 2, "rotary_dim": 16}),
    "falcon": ("Falcon", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "bloom": ("Bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 2}),
    "mpt": ("Mpt", {"d_model": 64, "n_layers": 2, "n_heads": 2, "expansion_ratio": 4}),
    "dbrx": (
        "Dbrx",
        {
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 2,
            "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
}

VOCABULARY = 512
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def config(name: str) -> Any:
    """The configuration of a family's tiny member."""
    import transformers

    kind, sizes = FAMILIES[name]
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    made = getattr(transformers, kind + "Config")(vocab_size=VOCABULARY, **special, **sizes)
    for field in _LENGTHS:
        if field in made.to_dict():
            setattr(made, field, 1024)
    return made


def build(name: str, folder: Path, weights: bool = True) -> str:
    """A model folder of the family; without weights it is a configuration only."""
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ARCHITECTURES

    made = config(name)
    if weights:
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(made).float().save_pretrained(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        told = made.to_dict() | {"architectures": [ARCHITECTURES[made.model_type]]}
        (folder / "config.json").write_text(json.dumps(told))
    return str(folder)
