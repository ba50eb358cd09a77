"""The generators by name, and their settings from text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from agentcache.errors import ConfigError
from agentcache.specs import Spec
from agentcache_workloads.generators import bfcl_search, gamma, infercept, tree, workflow
from agentcache_workloads.readers.trace import Meta, Session

GENERATORS: dict[str, tuple[type[msgspec.Struct], Callable[[Any, int], tuple[Meta, Iterator[Session]]]]] = {
    "longctx": (gamma.Gamma, gamma.generate),
    "bfcl": (bfcl_search.BfclSearch, bfcl_search.generate),
    "infercept": (infercept.InferCept, infercept.generate),
    "workflow": (workflow.Workflow, workflow.generate),
    "tree": (tree.Tree, tree.generate),
}


def generate(name: str, settings: Sequence[str], seed: int) -> tuple[Meta, Iterator[Session]]:
    """The trace of a generator with settings such as `jobs=20`. Raises `ConfigError` for what there is not."""
    if name not in GENERATORS:
        raise ConfigError(
            f"generator {name!r} is not known; nothing was written", hint=f"known: {', '.join(GENERATORS)}"
        )
    kind, make = GENERATORS[name]
    fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    given = Spec("generator", name, "nothing was written").options(fields, parts=settings)
    try:
        spec = msgspec.convert(given, kind, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(
            f"generator {name} cannot take these settings: {error}; nothing was written",
            hint="known: " + ", ".join(f"{field}={default!r}" for field, default in fields.items()),
        ) from error
    return make(spec, seed)
