"""Eviction policies by name: `NAME` or `NAME:option=value,option=value`; classes are named in `pyproject.toml`.

A retention layer stands in front of a policy with a plus: `ttl+asymcache`, `ttl:tau_s=30+asymcache:p=0.5`.
"""

import inspect
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args, get_origin

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.policy.base import Policy
from agentcache.specs import Spec

GROUP = "agentcache.policies"


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """All policies that are installed, ours and others', by the entry-point group `agentcache.policies`."""
    return sorted(_found())


def make_policy(spec: str, cost: CostModel, capacity_blocks: int) -> Policy:
    """Build a policy for a pool of `capacity_blocks` blocks from its spec.

    Raises `ConfigError` for an unknown policy (listing the known ones), a layer over nothing, something that is no
    layer over something, an unknown option, or a bad value.
    """
    first, plus, rest = spec.partition("+")
    given = Spec("policy", first)
    name = given.name
    cls = _load(name)
    parameters = inspect.signature(cls).parameters
    known = {
        key: parameter for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    values = {key: _read(given, key, text, known[key]) for key, text in given.options(known).items()}
    if ("inner" in parameters) != bool(plus):
        wrong = "no retention layer, but stands" if plus else "a retention layer, but does not stand"
        raise ConfigError(
            f"policy {spec!r}: {name} is {wrong} in front of another policy; nothing was started",
            hint="layers: " + ", ".join(layers()) + "; write for example ttl+return-index",
        )
    if not plus:
        policy: Policy = cls(cost, capacity_blocks, **values)
        return policy
    make_policy(rest, cost, capacity_blocks)  # the inner spec is wrong now, or never
    return cls(cost, capacity_blocks, lambda: make_policy(rest, cost, capacity_blocks), **values)  # type: ignore[no-any-return]


def make_online_policy(spec: str, cost: CostModel, capacity_blocks: int) -> Policy:
    """`make_policy` for a host that serves: raises `ConfigError` for an oracle too."""
    policy = make_policy(spec, cost, capacity_blocks)
    if policy.needs:
        raise ConfigError(
            f"policy {spec!r} needs {', '.join(sorted(policy.needs))}, which only a recorded trace tells; nothing was "
            "started",
            hint="oracles run in simulations: `agentcache replay --engine sim`, `agentcache results`",
        )
    return policy


def layers() -> list[str]:
    """The names of policies that stand in front of another one."""
    return [name for name in names() if "inner" in inspect.signature(_load(name)).parameters]


def _load(name: str) -> Any:
    if name not in _found():
        raise ConfigError(f"unknown policy {name!r}; nothing was started", hint="known policies: " + ", ".join(names()))
    return _found()[name].load()


def _read(given: Spec, key: str, text: str, parameter: inspect.Parameter) -> Any:
    if parameter.annotation in (bool, bool | None):
        return given.either(key, text)
    if get_origin(parameter.annotation) is Literal:
        if text not in (known := get_args(parameter.annotation)):
            raise given.unexpected(key, text, " or ".join(known))
        return text
    return given.number(key, text)
