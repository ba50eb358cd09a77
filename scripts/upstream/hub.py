"""A hub of tiny models under the names that vLLM's tests ask for: a folder laid out as `HF_HUB_CACHE`.

Of each model only what the tests look at is true: its architecture, its length and, for one that sees, its image
tokens. Widths are tiny and weights random; text models have them, so that engines run.
"""

import sys
from pathlib import Path
from typing import Any

from agentcache.vllm_plugin.launch.recipes import RECIPES
from agentcache.vllm_plugin.launch.tiny_models import build_tokenizer

_TINY = {name: value for name, value in RECIPES["tiny-llama"].items() if name != "arch"}
_OPT = {
    "vocab_size": 512,
    "hidden_size": 128,
    "word_embed_proj_dim": 128,
    "ffn_dim": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}

TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/opt-125m": ("OPT", _OPT),
    "facebook/opt-350m": ("OPT", _OPT),
    "hmellor/tiny-random-LlamaForCausalLM": ("Llama", _TINY | {"max_position_embeddings": 2048}),
    "meta-llama/Llama-3.2-1B": ("Llama", _TINY | {"max_position_embeddings": 131072}),
    "meta-llama/Llama-3.2-1B-Instruct": ("Llama", _TINY | {"max_position_embeddings": 131072}),
    "Qwen/Qwen3-0.6B": ("Qwen3", _TINY | {"max_position_embeddings": 40960}),
    "Qwen/Qwen1.5-7B": ("Qwen2", _TINY | {"max_position_embeddings": 32768}),
}
VISION = ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-3B-Instruct")
"""Tests of the scheduler want any model with image tokens. Both are BLIP-2, which imports without torchvision."""

IMAGE_TOKENS = 576
"""Of one image, as in Llava 1.5."""


def build(hub: Path) -> None:
    """Build those models that are not there yet."""
    for name, (arch, options) in TEXT.items():
        if folder := _new(hub, name):
            _text(folder, arch, options)
            _done(hub, name)
    for name in VISION:
        if folder := _new(hub, name):
            _blip2(folder)
            _done(hub, name)


def _text(folder: Path, arch: str, options: dict[str, Any]) -> None:
    import transformers

    config = getattr(transformers, arch + "Config")(**options)
    getattr(transformers, arch + "ForCausalLM")(config).half().save_pretrained(folder)
    build_tokenizer(512).save_pretrained(folder)


def _blip2(folder: Path) -> None:
    from transformers import Blip2Config, Blip2Processor, BlipImageProcessor, LlamaConfig

    tokenizer = build_tokenizer(512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    narrow = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    Blip2Config(
        vision_config=narrow | {"image_size": 336, "patch_size": 14},
        qformer_config=narrow | {"encoder_hidden_size": 128},
        text_config=LlamaConfig(**_TINY | {"vocab_size": 513, "max_position_embeddings": 4096}).to_dict(),
        num_query_tokens=IMAGE_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        architectures=["Blip2ForConditionalGeneration"],
    ).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 336, "width": 336})
    Blip2Processor(images, tokenizer, num_query_tokens=IMAGE_TOKENS).save_pretrained(folder)


def _folder(hub: Path, name: str) -> Path:
    return hub / ("models--" + name.replace("/", "--"))


def _new(hub: Path, name: str) -> Path | None:
    """Where to put the snapshot of a model; None if it has been made."""
    model = _folder(hub, name)
    if (model / "refs" / "main").exists():
        return None
    snapshot = model / "snapshots" / "0"
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def _done(hub: Path, name: str) -> None:
    (refs := _folder(hub, name) / "refs").mkdir(exist_ok=True)
    (refs / "main").write_text("0")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
