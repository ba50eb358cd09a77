"""Our classes over vLLM's: every method of ours overrides one of its, with a signature that fits, or is marked `own`.

A method that vLLM renames would else be overridden by nothing, and its hole plans lost without a word. So the join is
refused: when a class is made of ours and vLLM's (`Joined`), and when an object of ours stands for one of its
(`stand_in`). `scripts/drift` asks the same of the next release.
"""

import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, TypeVar

from agentcache.errors import Unsupported

Parameters = list[list[Any]]
"""[name, kind, has default] of each."""

F = TypeVar("F")


def own(method: F) -> F:
    """Mark a method as none of vLLM's."""
    method.__own__ = True  # type: ignore[attr-defined]
    return method


_Stock: Any = object
"""To a type checker, all that the class has with which one of ours is joined; nothing when it runs."""


class Joined(_Stock):
    """A base of whatever is joined with a class of vLLM's. Raises `Unsupported` where the two do not fit.

    It stands last among the bases of a class that objects of vLLM's are turned into: the first one is their layout.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "agentcache"]
        stock = next((base for base in cls.__mro__ if base.__module__.partition(".")[0] == "vllm"), None)
        if stock:
            refuse(misfits(ours, stock))


def stand_in(ours: type, stock: type, unneeded: Iterable[str] = ()) -> None:
    """Raise `Unsupported` unless ours has each public method of a class whose place it takes."""
    names = [name for name, thing in vars(stock).items() if _function(thing) and not name.startswith("_")]
    refuse(_compared(ours, stock, [name for name in names if name not in unneeded]))


def refuse(faults: list[str]) -> None:
    """Raise `Unsupported` with what does not fit, if anything."""
    if faults:
        raise Unsupported(
            f"AgentCache does not fit this vLLM: {'; '.join(faults)}; it does not start",
            hint="install a supported vLLM, or start the engine without AgentCache's flags",
        )


def misfits(ours: Iterable[type], stock: type) -> list[str]:
    """What does not fit between classes of ours and the one of vLLM's that they are joined with, a few words each."""
    return [fault for cls in ours for fault in _compared(cls, stock, overrides(cls))]


def overrides(cls: type) -> Iterator[str]:
    """The methods of a class of ours that override one of vLLM's."""
    for name, thing in vars(cls).items():
        function = _function(thing)
        if function and not hasattr(function, "__own__") and not name.startswith("__"):
            yield name


def _compared(ours: type, stock: type, names: Iterable[str]) -> list[str]:
    faults = []
    for name in names:
        mine, theirs = inspect.getattr_static(ours, name, None), inspect.getattr_static(stock, name, None)
        if theirs is None:
            faults.append(f"{stock.__qualname__}.{name} is gone")
        elif mine is None:
            faults.append(f"{stock.__qualname__}.{name} is new")
        elif fault := misfit(parameters(_function(mine)), parameters(_function(theirs))):
            faults.append(f"{stock.__qualname__}.{name} {fault}")
    return faults


def _function(thing: Any) -> FunctionType | None:
    """The function behind a method, of whatever kind, or behind a property."""
    inner = getattr(thing, "__func__", None) or getattr(thing, "fget", None) or thing
    return inner if isinstance(inner, FunctionType) else None


def parameters(function: Any) -> Parameters | None:
    """Its parameters; None for what is no function."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [[p.name, p.kind.name, p.default is not p.empty] for p in found]


def misfit(override: Parameters | None, stock: Parameters | None) -> str:
    """Why a call that vLLM's method takes is none that our override would; empty if it would, or one is no function."""
    if override is None or stock is None:
        return ""
    kinds = {kind for _, kind, _ in override}
    ours = {name for name, _, _ in override}
    if not {"VAR_POSITIONAL", "VAR_KEYWORD"} <= kinds:
        new = [name for name, kind, _ in stock if name not in ours and not kind.startswith("VAR_")]
        if new:
            return f"has the new parameter {', '.join(new)}"
    theirs = [name for name, kind, _ in stock if not kind.startswith("VAR_")]
    mine = [(name, default) for name, kind, default in override if not kind.startswith("VAR_")]
    shared = [name for name, _ in mine if name in theirs]
    wanted = [name for name, default in mine if name not in theirs and not default]
    if wanted or shared != theirs[: len(shared)]:
        return f"takes ({', '.join(theirs)})"
    return ""
