"""The command `agentcache serve`: vLLM's OpenAI server with AgentCache on."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from agentcache.errors import Unsupported


def serve(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, a hub name (org/model), or tiny-llama, ...")],
    policy: Annotated[str | None, typer.Option(help="Eviction policy.")] = None,
    admission: Annotated[str | None, typer.Option(help="Which turns may run: fcfs, program, working-set, ...")] = None,
    level: Annotated[
        str | None, typer.Option(help="holes, order or admit, or no start; default the highest that can be had.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Several holes a step (fused) or one (sequential).")] = None,
    profile: Annotated[Path | None, typer.Option(help="Cost profile; default estimated from the model.")] = None,
    chunking: Annotated[
        str | None, typer.Option(help="Prefill tokens beside decodes: adaptive:tpot=50ms, paper, fixed:N or off.")
    ] = None,
    host_memory: Annotated[
        float | None, typer.Option(help="GiB of host memory below the pool, for blocks that leave it.")
    ] = None,
    host_policy: Annotated[str | None, typer.Option(help="Eviction policy of host memory.")] = None,
    print_config: Annotated[bool, typer.Option(help="Print the command line and stop.")] = False,
) -> None:
    """Start vLLM's OpenAI server with AgentCache on; every other flag goes to vLLM."""
    from agentcache.vllm_plugin.config import check_options, load_options
    from agentcache.vllm_plugin.launch.command_line import SERVER, on_cpu, server_argv
    from agentcache.vllm_plugin.launch.tiny_models import served_model

    given: dict[str, Any] = {
        "policy": policy,
        "admission": admission,
        "level": level,
        "mode": mode,
        "profile": str(profile.resolve()) if profile else None,
        "chunking": chunking,
        "host_memory": host_memory,
        "host_policy": host_policy,
    }
    options = {key: value for key, value in given.items() if value is not None}
    argv = server_argv(served_model(model), options, ctx.args, model)
    config = json.loads(argv[argv.index("--additional-config") + 1])
    wanted = load_options(config)
    check_options(wanted)
    _check_host_memory(wanted.host_memory, ctx.args)
    if print_config:
        print(json.dumps({"argv": argv, "server": SERVER, "additional_config": config}, indent=1))
        return
    if wanted.level or wanted.on_unsupported == "refuse":
        _check_level(model, [*ctx.args, "--additional-config", json.dumps(config)])
    if on_cpu():
        from agentcache.vllm_plugin.launch.cpu_env import SERVER_ENV

        for name, value in SERVER_ENV.items():
            os.environ.setdefault(name, value)
    os.execv(argv[0], argv)


def _check_host_memory(wanted_gib: float | None, flags: list[str]) -> None:
    """Raise `ConfigError` for more than there is, and for some beside a connector, before anything is started."""
    if wanted_gib is None:
        return
    from agentcache.vllm_plugin.copies.room import beside_connector, check_free

    for flag in flags:
        if flag.partition("=")[0].replace("_", "-").partition(".")[0] == "--kv-transfer-config":
            raise beside_connector(wanted_gib, "the KV connector of --kv-transfer-config")
    check_free(wanted_gib)


def _check_level(model: str, flags: list[str]) -> None:
    """Raise `Unsupported` where the level that is asked for cannot be had, rather than have an engine say so.

    What vLLM itself does not take, it says when it is started.
    """
    from agentcache.cli.child import ask

    seen, _ = ask(model, *flags)
    if seen and seen["mode"] is None:
        raise Unsupported(seen["why"], hint=seen["hint"])


# Flags that are not ours are vLLM's.
serve.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]
