"""Models built offline: whole or not at all, once, and such that the engine's own libraries read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import InputError
from agentcache.vllm_plugin.launch import tiny_models as models
from agentcache.vllm_plugin.launch.recipes import RECIPES
from agentcache.vllm_plugin.launch.tiny_models import model_dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Builds that only leave a mark, in the order they were made."""
    made: list[Path] = []

    def build(recipe: dict[str, Any], folder: Path) -> None:
        made.append(folder)
        (folder / "config.json").write_text(json.dumps(recipe))

    monkeypatch.setattr(models, "_build", build)
    return made


def test_a_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_dir(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", b"\xff\xfe"])
def test_anything_else_is_none_and_the_names_are_listed(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as error:
        model_dir(str(tmp_path))
    assert str(tmp_path) in error.value.message
    assert all(name in str(error.value.hint) for name in RECIPES)


@pytest.mark.parametrize("path", ["tiny-lama", "", "/nowhere/at/all"])
def test_a_path_that_does_not_exist_is_none(path: str) -> None:
    with pytest.raises(InputError, match="no model folder"):
        model_dir(path)


def test_a_model_is_built_once(home: Path, builds: list[Path]) -> None:
    first = model_dir("tiny-llama")
    assert model_dir("tiny-llama") == first
    assert len(builds) == 1
    assert [str(path) for path in home.iterdir()] == [first]


def test_another_recipe_is_another_model(home: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_dir("tiny-llama")
    monkeypatch.setitem(RECIPES, "tiny-llama", {**RECIPES["tiny-llama"], "hidden_size": 256})
    assert model_dir("tiny-llama") != first


def test_a_build_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(recipe: dict[str, Any], folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_build", build)
    with pytest.raises(KeyboardInterrupt):
        model_dir("tiny-llama")
    assert list(home.iterdir()) == []


def test_of_two_builders_the_first_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(recipe: dict[str, Any], folder: Path) -> None:
        monkeypatch.setattr(models, "_build", lambda _, other: (other / "config.json").write_text('"first"'))
        model_dir("tiny-llama")  # somebody else, meanwhile
        (folder / "config.json").write_text('"second"')

    monkeypatch.setattr(models, "_build", build)
    folder = Path(model_dir("tiny-llama"))
    assert (folder / "config.json").read_text() == '"first"'
    assert list(home.iterdir()) == [folder]


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("demo-")])
def test_a_built_model_is_read_by_transformers(name: str, home: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = model_dir(name)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.architectures == [RECIPES[name]["arch"].removesuffix("Text") + "ForCausalLM"]
    assert config.max_position_embeddings >= 8192
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "ls -la | wc → 3 héllo 日本"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert max(tokens) < config.vocab_size
    assert tokenizer.decode(tokens) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "user: hi\nassistant: "


TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
CALLS = [
    {"id": name, "type": "function", "function": {"name": "bash", "arguments": {"command": command}}}
    for name, command in (("c1", "ls"), ("c2", "pwd"))
]


def test_an_agents_chat_is_rendered_whole() -> None:
    pytest.importorskip("transformers")
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "look round"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "a b\n"},
        {"role": "tool", "tool_call_id": "c2", "content": "/home"},
        {"role": "assistant", "content": "two files", "tool_calls": []},
    ]
    tokenizer = models.build_tokenizer(512)
    chat = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    tool = '{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}'
    calls = (
        '<tool_call>{"id": "c1", "name": "bash", "arguments": {"command": "ls"}}</tool_call>'
        '<tool_call>{"id": "c2", "name": "bash", "arguments": {"command": "pwd"}}</tool_call>'
    )
    assert chat == (
        f"tools: [{tool}]\nsystem: be brief\nuser: look round\nassistant: {calls}\n"
        "tool c1: a b\n\ntool c2: /home\nassistant: two files\nassistant: "
    )
    # What is said next is appended: a turn's chat begins with the one before it.
    before = tokenizer.apply_chat_template(messages[:3], tools=TOOLS, tokenize=False)
    assert chat.startswith(before)


def test_another_template_is_another_model(home: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_dir("tiny-llama")
    monkeypatch.setattr(models, "CHAT", "{{ messages }}")
    assert model_dir("tiny-llama") != first


def test_building_twice_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    weights = []
    for home in ("one", "two"):
        monkeypatch.setenv("AGENTCACHE_HOME", str(tmp_path / home))
        weights.append(Path(model_dir("tiny-llama"), "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
