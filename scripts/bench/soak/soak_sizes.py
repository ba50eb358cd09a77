"""How many entries every map holds that can be reached from some objects of ours, by class and attribute."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

_MAPS = (dict, list, set, deque)
_LEAVES = (str, bytes, int, float, bool, type(None), type, ModuleType, FunctionType, BuiltinFunctionType)


def sizes(*roots: Any) -> Counter[str]:
    """Entries by `Class.attribute`, `[]` for what stands in a container, added up over all instances.

    Every dict, list, set and deque is counted; objects are entered if their class is one of AgentCache's, containers
    and bound methods always.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    ahead = [(type(root).__name__, root) for root in roots]
    while ahead:
        name, thing = ahead.pop()
        if isinstance(thing, _LEAVES) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, MethodType):
            ahead.append((name, thing.__self__))
        elif isinstance(thing, _MAPS) or type(thing).__module__.startswith("sortedcontainers"):
            found[name] += len(thing)
            ahead += [(f"{name}[]", part) for part in _parts(thing)]
        elif isinstance(thing, frozenset | tuple):
            ahead += [(f"{name}[]", part) for part in thing]
        elif type(thing).__module__.startswith("agentcache"):
            kind = type(thing).__name__
            ahead += [(f"{kind}.{attribute}", value) for attribute, value in _attributes(thing)]
    return found


def _parts(thing: Any) -> Iterator[Any]:
    yield from thing
    if isinstance(thing, Mapping):
        yield from thing.values()


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots: str | Sequence[str] = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, slot) and slot not in ("__dict__", "__weakref__"):
                yield slot, getattr(thing, slot)
