"""The gates that want a process of their own: kernels under Triton's interpreter, and compiled for absent GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

GATES = Path(__file__).parent / "gates"


def run(*command: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_kernels_agree_with_the_reference_under_the_interpreter() -> None:
    out = run("-m", "pytest", "-q", str(GATES), TRITON_INTERPRET="1")
    assert " passed" in out
    assert "failed" not in out


def test_kernels_compile_for_three_generations_without_spilling(tmp_path: Path) -> None:
    out = run(
        "-m", "agentcache_kernels.compile", "--quick", "--out", str(tmp_path / "figures.csv"), TRITON_INTERPRET="0"
    )
    assert "12 kernels, 0 spill or do not fit" in out
    rows = (tmp_path / "figures.csv").read_text().splitlines()
    assert len(rows) == 13
    assert {row.split(",")[1] for row in rows[1:]} == {"sm_80", "sm_90", "sm_100"}
