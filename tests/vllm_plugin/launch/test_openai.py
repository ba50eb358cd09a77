"""vLLM's server in a replica: its arguments. The engine itself runs in tests/service."""

import pytest

pytest.importorskip("vllm", reason="the engine is vLLM's")

from agentcache.errors import ConfigError, InputError
from agentcache.vllm_plugin.launch.openai import OpenAIEngine, flags


def test_engine_arguments_become_flags() -> None:
    kwargs = {
        "max_model_len": 64,
        "enforce_eager": True,
        "enable_x": False,
        "names": ["a", "b"],
        "y": None,
        "z": {"k": 1},
    }
    expected = ["--max-model-len", "64", "--enforce-eager", "--no-enable-x", "--names", "a", "b", "--z", '{"k": 1}']
    assert list(flags(kwargs)) == expected


def test_what_cannot_be_used_starts_nothing() -> None:
    with pytest.raises(ConfigError, match="known policies"):
        OpenAIEngine("org/model", {}, {"policy": "asymcash"})
    with pytest.raises(ConfigError, match="contradicts"):
        OpenAIEngine("org/model", {"scheduler_cls": "x"}, {})
    with pytest.raises(InputError, match="no model folder"):
        OpenAIEngine("/nowhere", {}, {})


def test_the_plugin_is_on() -> None:
    argv = OpenAIEngine("org/model", {"seed": 1}, {"policy": "lru"}).argv
    assert argv[:2] == ["--model", "org/model"] and argv[-2:] == ["--seed", "1"]
    assert "--scheduler-cls" in argv and "--worker-cls" in argv
