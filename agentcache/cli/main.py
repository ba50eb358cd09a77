"""The command `agentcache`: finds a command, runs it, and turns what goes wrong into a sentence and an exit code.

Exit codes: 0 done; 1 a check or the engine failed; 2 input that cannot be used; 130 interrupted.
"""

from typing import Annotated, Any

import typer

import agentcache
from agentcache.cli.commands import Commands
from agentcache.errors import AgentCacheError, CheckFailed, ConfigError, EngineError

EXTRAS = {
    "jinja2": "workloads",
    "matplotlib": "workloads",
    "ray": "service",
    "torch": "vllm-cpu",
    "transformers": "vllm-cpu",
    "triton": "kernels",
    "vllm": "vllm-cpu",
    "zstandard": "workloads",
}
"""Packages that commands import, and the extra that brings each."""


class Reporting(Commands):
    """The group, with errors reported as one sentence and a hint."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (AgentCacheError, ModuleNotFoundError) as error:
            shown = error if isinstance(error, AgentCacheError) else _missing_extra(error)
            if shown is None or ctx.params["debug"]:
                raise
            typer.echo(f"error: {shown}", err=True)
            raise typer.Exit(1 if isinstance(shown, CheckFailed | EngineError) else 2) from error


def _missing_extra(error: ModuleNotFoundError) -> AgentCacheError | None:
    """The sentence for a package of an extra; None for any other module, whose absence is a bug."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    extra = EXTRAS[package]
    return ConfigError(
        f"this command needs {package}, which is not installed; it cannot run",
        hint=f"it comes with the extra {extra!r}: run `make install`, or `pip install '.[{extra}]'` in a checkout",
    )


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentcache {agentcache.__version__}")
        raise typer.Exit


app = typer.Typer(cls=Reporting, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of sentences.")] = False,
) -> None:
    """Keep multi-turn agent contexts in GPU memory across tool-call pauses, losslessly."""


def main() -> None:
    """Entry point of the script `agentcache`."""
    app(prog_name="agentcache")
