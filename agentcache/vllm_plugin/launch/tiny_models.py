"""Small random-weight models with a tokenizer, built offline: enough to run the real engine anywhere."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from agentcache.errors import ConfigError, InputError
from agentcache.vllm_plugin.launch.recipes import RECIPES

CHAT = r"""
{%- if tools %}tools: {{ tools | tojson }}{{ '\n' }}{% endif %}
{%- for m in messages %}
{{- m.role }}{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}: {{ m.content or '' }}
{%- for call in m.tool_calls or [] %}
<tool_call>{{ {'id': call.id, 'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>
{%- endfor %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}"""
"""A chat with everything that agents send in it: the tools, the calls, and which of them a result answers."""

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_dir(name_or_path: str) -> str:
    """The folder of a model: a path is checked, a name from `RECIPES` is built once and kept.

    Built models live under `$AGENTCACHE_HOME` (default `~/.cache/agentcache`). Raises `InputError` for anything else.
    """
    if name_or_path in RECIPES:
        return str(_built(name_or_path))
    path = Path(name_or_path)
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {name_or_path!r} is no model folder: {error}; nothing was started",
            hint="give a folder with a config.json, or one of " + ", ".join(RECIPES),
        ) from error
    return str(path)


def served_model(model: str) -> str:
    """The model as a server takes it: a folder that is one, or a hub name that vLLM will look up."""
    if model.startswith("-"):
        raise ConfigError(f"{model} stands where the model was expected; nothing was started", "put the model first")
    if HUB_NAME.fullmatch(model) and not Path(model).exists():
        return model
    return model_dir(model)


def _built(name: str) -> Path:
    recipe = RECIPES[name]
    version = hashlib.sha256(json.dumps([recipe, CHAT], sort_keys=True).encode()).hexdigest()[:10]
    home = Path(os.environ.get("AGENTCACHE_HOME", Path.home() / ".cache" / "agentcache"))
    final = home / "models" / f"{name}-{version}"
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    # Built beside and renamed, so that nobody ever sees half a model.
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    try:
        _build(recipe, building)
        building.chmod(0o755)
        building.rename(final)
    except OSError:
        if not final.is_dir():  # somebody else was faster
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def _build(recipe: dict[str, Any], folder: Path) -> None:
    import torch
    import transformers

    options = {key: value for key, value in recipe.items() if key != "arch"}
    torch.manual_seed(0)
    config = getattr(transformers, recipe["arch"] + "Config")(**options)
    model = getattr(transformers, recipe["arch"].removesuffix("Text") + "ForCausalLM")(config)
    model.float().save_pretrained(folder)
    build_tokenizer(recipe["vocab_size"]).save_pretrained(folder)


def build_tokenizer(vocab_size: int) -> Any:
    """A byte-level BPE that can encode anything; trained on two sentences, since nobody reads its output."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = ["an agent reads a file, calls a tool and waits", "the tool returns and the context comes back"] * 50
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = CHAT
    return fast
