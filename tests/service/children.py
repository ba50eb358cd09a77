"""Programs of these tests that run as processes of their own, because Ray is started once in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentcache.files import free_port

ROOT = Path(__file__).parents[2]


def outcome(module: str, first_key: str, timeout_s: float) -> tuple[dict[str, Any], str]:
    """Run a module with a free port; the JSON object that it prints, by its first key, and all that it has said."""
    child = subprocess.run(
        [sys.executable, "-m", module, str(free_port())],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    told = next(json.loads(line) for line in child.stdout.splitlines() if line.startswith(f'{{"{first_key}"'))
    return told, child.stdout + child.stderr
