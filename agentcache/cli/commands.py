"""The group of commands, found by entry point and imported only when one of them is run."""

import ast
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

GROUP = "agentcache.commands"


class Commands(TyperGroup):
    """All commands of the entry-point group `agentcache.commands`: ours, the workloads' and other packages'.

    An entry point names a function with typer annotations, whose docstring is the command's help. The function may
    carry an attribute `context_settings`, a dict passed on to its command (to let foreign flags through, say).
    """

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self._points)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command as it is listed: its name and summary, without its options."""
        if cmd_name not in self._points:
            return None

        def listed() -> None: ...

        listed.__doc__ = summary(self._points[cmd_name])
        return _command(cmd_name, listed)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command as it is run: only here is its module imported."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, _command(name, self._points[name].load()) if name else None, rest


def _command(name: str, function: Callable[..., Any]) -> Any:
    app = typer.Typer(add_completion=False)
    app.command(name, context_settings=getattr(function, "context_settings", None))(function)
    command = typer.main.get_command(app)
    command.name = name
    return command


def summary(point: EntryPoint) -> str:
    """First line of the docstring of a command's function, read from the source: its module is not imported."""
    try:
        spec = find_spec(point.module)
        source = spec.loader.get_source(point.module)  # type: ignore[union-attr]
    except (ImportError, AttributeError):
        return f"(not available: {point.module} cannot be found)"
    for node in ast.parse(source or "").body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
