"""The command `agentcache up`: the OpenAI API over several replicas of a model, on this machine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agentcache.errors import ConfigError


def up(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="A model folder, a hub name (org/model), or tiny-llama, ...")],
    replicas: Annotated[int, typer.Option(min=1, help="Engines that run.")] = 1,
    host: Annotated[str, typer.Option(help="Where to listen; anything but loopback is reachable by others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8000,
    router: Annotated[str, typer.Option(help="residency, session or default (Serve's own).")] = "residency",
    policy: Annotated[str | None, typer.Option(help="Eviction policy, of engines and of the service.")] = None,
    admission: Annotated[str | None, typer.Option(help="Which turns may run: fcfs, program, working-set, ...")] = None,
    tenants: Annotated[Path | None, typer.Option(help="JSON with the tenants' bearer tokens (digests).")] = None,
    print_config: Annotated[bool, typer.Option(help="Print the configuration of `serve run` and stop.")] = False,
) -> None:
    """Serve a model with several replicas on this machine until Ctrl-C; every other flag goes to vLLM."""
    from agentcache.service.config import load_config
    from agentcache.service.front.tenants import Tenants
    from agentcache.vllm_plugin.launch.command_line import on_cpu
    from agentcache.vllm_plugin.launch.openai import OpenAIEngine
    from agentcache.vllm_plugin.launch.tiny_models import served_model

    options = {key: value for key, value in (("policy", policy), ("admission", admission)) if value is not None}
    cpu = on_cpu()
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // replicas))
    args: dict[str, Any] = {
        "model": served_model(model),
        "replicas": replicas,
        "router": router,
        "engine_kwargs": {"served_model_name": model} | engine_kwargs(ctx.args),
        "agentcache": options,
        "residency": {"policy": policy} if policy is not None else {},
        "tenants_file": str(tenants.resolve()) if tenants else None,
        "num_cpus": 0.01,  # this machine is ours: nothing is reserved
        "num_gpus": 0.0 if cpu else 1.0,
        "env": {"OMP_NUM_THREADS": threads} if cpu else {},
    }
    config = load_config(args)
    # What replicas and ingress would refuse, told before any is started.
    OpenAIEngine(config.model, config.engine_kwargs, config.agentcache)
    Tenants.load(config.tenants_file)
    if print_config:
        applications = [
            {"name": "agentcache", "route_prefix": "/", "import_path": "agentcache.service:build_app", "args": args}
        ]
        http = {"host": host, "port": port, "keep_alive_timeout_s": config.keep_alive_s}
        print(json.dumps({"http_options": http, "applications": applications}, indent=1))
        return
    from agentcache.files import free_port
    from agentcache.service.local import running, wait_for_signal

    if host not in ("127.0.0.1", "localhost", "::1") and not tenants:
        typer.echo(f"warning: {host} is reachable by others, and no --tenants are asked for tokens", err=True)
    typer.echo(f"Starting {replicas} replica{'s' * (replicas > 1)} of {model} (a minute or so)", err=True)
    with running(config, host, port or free_port()) as url:
        print(f"AgentCache is up at {url} (OpenAI API under {url}/v1, documentation at {url}/docs); Ctrl-C ends it")
        wait_for_signal()
        typer.echo("Stopping", err=True)


def engine_kwargs(flags: Sequence[str]) -> dict[str, Any]:
    """vLLM's flags as engine arguments by their Python names. Raises `ConfigError` for anything but long flags."""
    found: dict[str, Any] = {}
    given: list[Any] = []
    for flag in flags:
        if flag.startswith("--"):
            name, equals, value = flag[2:].partition("=")
            given = [value] if equals else []
            found[name.replace("-", "_")] = given
        elif not found or (flag.startswith("-") and not flag[1:2].isdigit()):
            raise ConfigError(f"{flag} is no flag of vLLM in its long form (--max-model-len 4096); nothing was started")
        else:
            given.append(flag)
    return {name: values[0] if len(values) == 1 else values or True for name, values in found.items()}


# Flags that are not ours are vLLM's.
up.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]
