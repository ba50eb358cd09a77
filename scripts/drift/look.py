"""What AgentCache builds on, read from its own source and looked up in the vLLM that is importable here.

`python scripts/drift/look.py` prints one JSON object: `version`, `uses` (how many), `missing` (those that this vLLM has
not), `signatures` (use -> parameters as [name, kind, has default]) and, likewise, our `overrides` of them. Nothing of
vLLM is started, and no list is kept.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from foreign import imported

import agentcache.vllm_plugin
from agentcache.vllm_plugin import overrides
from agentcache.vllm_plugin.overrides import parameters

COMPAT = "agentcache.vllm_plugin.compat"

TYPED = {
    "scheduler": "Scheduler",
    "scheduler_output": "SchedulerOutput",
    "request": "Request",
    "common": "CommonAttentionMetadata",
    "kv_cache_config": "KVCacheConfig",
}
"""What a variable of this name holds throughout the plug-in: a class of `compat`."""

MIXED_IN = {
    "SegmentedRunner": ("vllm.v1.worker.gpu_model_runner:GPUModelRunner",),
    "SegmentedRunnerV2": ("vllm.v1.worker.gpu.model_runner:GPUModelRunner",),
}
"""Mixins that are joined to vLLM's classes only in a running engine."""


# What the source says


def imports_of(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name) of everything of vLLM that a source imports, also by `import_module`; name None for a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vllm"):
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and _is_module(value):
                    yield value.value, str(key.value).removeprefix("GPU")  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imported_in(node)


def _imported_in(function: ast.AST) -> Iterator[tuple[str, str | None]]:
    bound: dict[str, list[str]] = {}
    for node in ast.walk(function):
        if _is_import(node):
            yield from ((module, None) for module in _modules(node))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_import(node.value):
            bound[node.targets[0].id] = _modules(node.value)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            held = bound.get(getattr(node.value, "id", ""), [])
            for module in held or (_modules(node.value) if _is_import(node.value) else []):
                yield module, node.attr


def _is_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and str(node.value).startswith("vllm.")


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("import_module", "import_first")


def _modules(node: ast.AST) -> list[str]:
    """The modules that a call imports; of alternatives the one that is there."""
    named = [part.value for part in ast.walk(node) if _is_module(part)]  # type: ignore[attr-defined]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_first":
        return [name for name in named if _exists(name)][:1] or named[:1]
    return named


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def attributes_of(tree: ast.AST, variable: str) -> set[str]:
    """Names that are read as `variable.name`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and getattr(node.value, "id", None) == variable
    }


def assigned_by(tree: ast.AST, variable: str = "self") -> set[str]:
    """Names that are assigned as `variable.name`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and getattr(node.value, "id", None) == variable
    }


def supers_of(tree: ast.AST) -> set[str]:
    """Names that are read as `super().name`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", None) == "super"
    }


def configured(source: str) -> set[tuple[str, str]]:
    """(section, field) of vLLM's configuration that a source reads, as in `parallel_config.worker_cls`."""
    return set(re.findall(r"\b([a-z_]+_config)\.([a-z_]\w*)\b", source))


# What vLLM has


def tree_of(thing: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


@cache
def names_of(cls: type) -> set[str]:
    """What an instance has: attributes of its class, annotated ones, and those that its classes assign to `self`."""
    names = set(dir(cls)) | set(getattr(cls, "__dataclass_fields__", ()))
    for base in cls.__mro__[:-1]:
        names |= set(getattr(base, "__annotations__", ()))
        if base.__module__.startswith("vllm"):
            names |= assigned_by(tree_of(base))
    return names


class Look:
    """Collects uses: `missing`, the `signatures` of those that are there and can be called, and our `overrides`."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.signatures: dict[str, list[list[Any]]] = {}
        self.overrides: dict[str, list[list[Any]]] = {}
        self.uses = 0

    def imports(self, pairs: Iterable[tuple[str, str | None]]) -> None:
        for module, name in sorted(set(pairs), key=str):
            self.uses += 1
            try:
                found = imported(module)
            except ModuleNotFoundError as error:
                self.missing.add(str(error.name))
                continue
            if name is None:
                continue
            if not hasattr(found, name):
                self.missing.add(f"{module}.{name}")
            elif inspect.isfunction(getattr(found, name)):
                self._signature(f"{module}.{name}", getattr(found, name))

    def attributes(self, cls: type, names: Iterable[str]) -> None:
        """Uses of an instance of a class of vLLM's."""
        have = names_of(cls)
        for name in sorted(set(names)):
            self.uses += 1
            if name not in have:
                self.missing.add(f"{cls.__module__}.{cls.__qualname__}.{name}")
            elif inspect.isfunction(found := inspect.getattr_static(cls, name, None)):
                self._signature(f"{cls.__module__}.{cls.__qualname__}.{name}", found)

    def subclass(self, ours: list[type], stock: type) -> None:
        """Classes of ours over one of vLLM's: what they override, call and read of it."""
        trees = [tree_of(cls) for cls in ours]
        defined = {name for cls in ours for name in (*vars(cls), *getattr(cls, "__annotations__", ()))}
        for tree in trees:
            defined |= assigned_by(tree)
        used = {name for tree in trees for name in supers_of(tree)}
        used |= {name for tree in trees for name in attributes_of(tree, "self")} - defined
        used |= {name for cls in ours for name in overrides.overrides(cls)}
        self.attributes(stock, {name for name in used if not name.startswith("__")})
        for name in used:
            override = next((vars(cls)[name] for cls in ours if name in vars(cls)), None)
            use = f"{stock.__module__}.{stock.__qualname__}.{name}"
            if inspect.isfunction(override) and use in self.signatures:
                self.overrides[use] = parameters(override) or []

    def _signature(self, use: str, function: Any) -> None:
        if (found := parameters(function)) is not None:
            self.signatures[use] = found


def look() -> dict[str, Any]:
    """Everything that the plug-in's modules use of vLLM."""
    vllm = imported("vllm")
    overrides.refuse = lambda faults: None  # what does not fit is told below, with all the rest

    seen = Look()
    compat_source = tree_of_module(COMPAT)
    seen.imports(imports_of(compat_source))
    compat = importlib.import_module(COMPAT)
    scheduling = importlib.import_module("agentcache.vllm_plugin.scheduler").ResidencyScheduling
    own_of_scheduler = {*vars(scheduling), *scheduling.__annotations__}
    for name in modules():
        module = imported(name)
        source = inspect.getsource(module)
        tree = ast.parse(source)
        for variable, cls in TYPED.items():
            own = own_of_scheduler if variable == "scheduler" else set()
            used = attributes_of(tree, variable) - assigned_by(tree, variable) - own
            seen.attributes(getattr(compat, cls), used - {"agentcache_segments"})
        for section, field in configured(source):
            if cls_found := getattr(vllm.config, section.title().replace("_", ""), None):
                seen.attributes(cls_found, {field})
        for cls_ours in vars(module).values():
            if not inspect.isclass(cls_ours) or cls_ours.__module__ != name:
                continue
            ours = [base for base in cls_ours.__mro__ if base.__module__.startswith("agentcache.")]
            stocks = [base for base in cls_ours.__mro__ if base.__module__.startswith("vllm.")]
            for path in MIXED_IN.get(cls_ours.__name__, ()):
                place, _, stock_name = path.partition(":")
                stocks.append(getattr(imported(place), stock_name))
            if stocks:
                seen.subclass(ours, stocks[0])
    return {
        "version": vllm.__version__,
        "uses": seen.uses,
        "missing": sorted(seen.missing),
        "signatures": seen.signatures,
        "overrides": seen.overrides,
    }


def modules() -> list[str]:
    """The plug-in's modules that an engine runs."""
    package = agentcache.vllm_plugin
    found = [info.name for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".") if not info.ispkg]
    return [name for name in found if ".lab." not in name]


def tree_of_module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(name)))


if __name__ == "__main__":
    print(json.dumps(look()))
