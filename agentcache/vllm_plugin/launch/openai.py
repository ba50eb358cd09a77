"""vLLM's OpenAI server with AgentCache on, as an ASGI application in this process: what a replica of a service runs."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError
from agentcache.vllm_plugin.accounts import page
from agentcache.vllm_plugin.config import check_options, load_options
from agentcache.vllm_plugin.launch.command_line import on_cpu, server_argv
from agentcache.vllm_plugin.launch.cpu_env import SERVER_ENV, interpret_in_children, interpret_triton
from agentcache.vllm_plugin.launch.tiny_models import served_model


class OpenAIEngine:
    """One engine and its OpenAI API. `start`, then call `app` with ASGI scopes; `stop` ends the engine's processes.

    `model`: a folder, a hub name, or one of the small models. `engine_kwargs`: vLLM's engine arguments by their
    Python names. `options`: those of `EngineOptions`. Raises `ConfigError` before anything is started.
    """

    def __init__(self, model: str, engine_kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.argv = server_argv(served_model(model), dict(options), flags(engine_kwargs), model)[3:]
        self._options = load_options(json.loads(self.argv[self.argv.index("--additional-config") + 1]))
        check_options(self._options)
        self.app: Any = None
        self.client: Any = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start the engine; returns when it can serve. Raises `ConfigError` for flags that vLLM does not take."""
        if on_cpu():
            for name, value in SERVER_ENV.items():
                os.environ.setdefault(name, value)
        if interpreted():
            interpret_triton()
            interpret_in_children()
        from agentcache.vllm_plugin.compat import openai_app

        page.show()
        try:
            self.app, self.client = await self._stack.enter_async_context(openai_app(self.argv))
        except SystemExit as error:
            raise ConfigError(
                f"vLLM does not take these arguments: {' '.join(self.argv)}; nothing was started"
            ) from error

    async def stop(self) -> None:
        await self._stack.aclose()

    async def check(self) -> None:
        """Raise if the engine is dead."""
        await self.client.check_health()

    def profile(self) -> CostProfile:
        """What a prompt costs here: the measured profile, or the estimate from the model's shape."""
        from agentcache.vllm_plugin.steps.prices import estimate

        return CostProfile.load(self._options.profile) if self._options.profile else estimate(self.client.model_config)


def interpreted() -> bool:
    """Whether Triton kernels are to be interpreted here: asked for by `TRITON_INTERPRET=1`, as Triton itself is."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def flags(engine_kwargs: Mapping[str, Any]) -> Sequence[str]:
    """vLLM's command-line flags for engine arguments by their Python names (`max_model_len: 1024`).

    True and False become a flag and its negation, None is left out, dicts are JSON, lists follow their flag.
    """
    argv: list[str] = []
    for name, value in engine_kwargs.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            argv.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            argv += [f"--{flag}", *map(str, value)]
        else:
            argv += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return argv
