"""A question to vLLM, asked in a process of its own, which may do whatever it does."""

import json
import subprocess
import sys
from typing import Any

START_TIMEOUT_S = 300


def ask(*args: str) -> tuple[dict[str, Any] | None, str | None]:
    """What `agentcache.vllm_plugin.lab.diagnosis` finds with these arguments, or its last words."""
    command = [sys.executable, "-m", "agentcache.vllm_plugin.lab.diagnosis", *args]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"it was not up after {START_TIMEOUT_S} s"
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1]), None
    return None, "\n".join([line for line in child.stderr.splitlines() if line.strip()][-3:])
