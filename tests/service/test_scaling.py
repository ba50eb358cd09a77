"""The number of replicas follows the load while jobs run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcache.service.ports import free_port

pytest.importorskip("ray", reason="the application is Ray Serve's")
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


def test_replicas_come_and_go_and_no_turn_is_lost() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.service.scaling", str(free_port())],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    outcome = next(json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"codes"'))
    assert outcome["grown"] == 2 and outcome["shrunk"] == 1
    assert set(outcome["codes"]) == {"200"}
