"""The drift check: what it reads out of a source, and what it calls a break."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "drift"


sys.path.insert(0, str(FOLDER))  # as it is for a script that is run there


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"drift_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drift, look = load("drift"), load("look")

SELF = ["self", "POSITIONAL_OR_KEYWORD", False]
A, B = ["a", "POSITIONAL_OR_KEYWORD", False], ["b", "POSITIONAL_OR_KEYWORD", False]
B_DEFAULT = ["b", "POSITIONAL_OR_KEYWORD", True]
ARGS, KWARGS = ["args", "VAR_POSITIONAL", False], ["kwargs", "VAR_KEYWORD", False]

SOURCE = """
from vllm.config import VllmConfig
from json import loads
PLACES = {"GPUWorker": "vllm.v1.worker.gpu_worker", "other": 1}
def one():
    module = import_module("vllm.a" if x else "vllm.b")
    module.Name = module.Name
def two():
    module = import_module("vllm.c")
    return module.f, import_module("vllm.d").g
"""


def test_imports_are_read_by_whatever_way_they_are_made() -> None:
    found = set(look.imports_of(ast.parse(SOURCE)))
    assert ("vllm.config", "VllmConfig") in found
    assert ("vllm.v1.worker.gpu_worker", "Worker") in found
    assert {("vllm.a", "Name"), ("vllm.b", "Name"), ("vllm.c", "f"), ("vllm.d", "g")} <= found
    assert {module for module, _ in found} == {
        "vllm.config",
        "vllm.v1.worker.gpu_worker",
        *(f"vllm.{letter}" for letter in "abcd"),
    }


def test_of_alternatives_the_one_that_is_there_counts() -> None:
    tree = ast.parse('def f():\n    import_first("vllm.gone.away", "json")\n    import_first("vllm.gone", "vllm.also")')
    assert set(look.imports_of(tree)) == {("vllm.gone.away", None), ("vllm.gone", None)}


def test_uses_of_an_instance_are_reads_calls_and_supers() -> None:
    tree = ast.parse("def f(self):\n    self.mine = 1\n    self.theirs.x = super().make(self.call())\n    other.y")
    assert look.attributes_of(tree, "self") == {"theirs", "call"}
    assert look.assigned_by(tree) == {"mine"}
    assert look.supers_of(tree) == {"make"}
    assert look.configured("s.config.parallel_config.worker_cls + config.x") == {("parallel_config", "worker_cls")}


@pytest.mark.parametrize(
    ("new", "old", "fits"),
    [
        ([SELF, A], [SELF, A], True),
        ([SELF, A, B_DEFAULT], [SELF, A], True),
        ([SELF, A, KWARGS], [SELF, A], True),
        ([SELF, A, B], [SELF, A], False),
        ([SELF, B], [SELF, A], False),
        ([SELF], [SELF, A], False),
    ],
)
def test_a_signature_may_grow_where_calls_still_fit(new: list[Any], old: list[Any], fits: bool) -> None:
    assert drift.extends(new, old) is fits


def test_an_override_must_take_what_is_new() -> None:
    here = {"missing": [], "signatures": {"C.f": [SELF, A]}}
    there = {"missing": [], "signatures": {"C.f": [SELF, A, B_DEFAULT]}, "overrides": {"C.f": [SELF, ARGS, KWARGS]}}
    assert drift.breaks(here, there) == []
    there["overrides"] = {"C.f": [SELF, A]}
    assert drift.breaks(here, there) == ["C.f has the new parameter b"]


def test_breaks_name_what_is_gone_or_no_longer_fits() -> None:
    here = {"missing": [], "signatures": {"C.f": [SELF, A], "C.g": [SELF, A], "h": [A]}}
    there = {
        "missing": ["m.gone"],
        "signatures": {"C.f": [SELF, A, B_DEFAULT], "C.g": [SELF, B], "h": [A, B_DEFAULT]},
        "overrides": {"C.f": [SELF, A]},
    }
    assert drift.breaks(here, there) == [
        "C.f has the new parameter b",
        "C.g takes (self, b)",
        "m.gone is gone",
    ]


def test_moves_are_what_is_elsewhere_or_takes_more_and_fits() -> None:
    here = {"missing": [], "signatures": {"C.f": [SELF, A], "C.g": [SELF, A], "h": [A], "old.k": [A], "same": [A]}}
    there = {
        "missing": [],
        "signatures": {"C.f": [SELF, A, B_DEFAULT], "C.g": [SELF, B], "h": [A, B_DEFAULT], "new.k": [A], "same": [A]},
        "overrides": {"C.f": [SELF, ARGS, KWARGS]},
    }
    assert drift.moves(here, there) == ["C.f also takes b, and so does ours", "h also takes b", "new.k was old.k"]


def test_a_release_that_cannot_be_had_is_a_counted_skip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        return subprocess.CompletedProcess(args, 1, "", "WARNING: x\nERROR: No matching distribution found\n")

    monkeypatch.setattr(drift, "ROOT", tmp_path)
    monkeypatch.setattr(drift.subprocess, "run", refused)
    assert drift.main("9.9.9") == 0
    said = capsys.readouterr().out
    assert said == "drift: 1 skipped: vllm==9.9.9 cannot be had: ERROR: No matching distribution found\n"


@pytest.mark.parametrize(
    ("missing_here", "missing_there", "code", "says"),
    [
        ([], [], 0, "drift: vLLM 2 after 1: 7 uses fit\n"),
        ([], ["m.f"], 1, "drift: vLLM 2 after 1: 1 of 7 uses break: m.f is gone\n"),
        (["m.g"], ["m.g"], 1, "drift: this vLLM itself (1) lacks m.g\n"),
    ],
    ids=["fits", "breaks", "wrong here"],
)
def test_one_line_says_what_broke(
    missing_here: list[str],
    missing_there: list[str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = {"uses": 7, "signatures": {}, "overrides": {}}
    found = [{"version": "1", "missing": missing_here, **same}, {"version": "2", "missing": missing_there, **same}]
    monkeypatch.setattr(drift, "environment", lambda version: tmp_path)
    monkeypatch.setattr(drift, "looks", lambda *pythons: found)
    assert drift.main("2") == code
    assert capsys.readouterr().out == says
