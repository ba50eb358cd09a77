"""Serve's own application for language models takes the plug-in and the router as they are."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentcache.service.ports import free_port

pytest.importorskip("vllm", reason="the replicas are vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")
pytest.importorskip("ray.serve.llm", reason="the package of ray[llm] is not complete here", exc_type=ImportError)
pytestmark = [pytest.mark.ray, pytest.mark.vllm]

ROOT = Path(__file__).parents[2]


def test_turns_meet_their_contexts_under_ray_serve_llm() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.service.serve_llm", str(free_port())],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    outcome = next(json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"named"'))
    for kind in ("named", "nameless"):
        assert all(turn["cached_tokens"] > 400 for turn in outcome[kind]), outcome
    # Half of them by chance, if nobody knew; and they were not all in one place.
    said = child.stdout + child.stderr
    assert len(set(re.findall(r"LLMServer:tiny-llama (\w+) \S+ -- CALL completions OK", said))) == 2
    assert "agentcache.vllm_plugin.scheduler" in said
