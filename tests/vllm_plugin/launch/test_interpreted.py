"""The kernels inside real vLLM: interpreted, on its second model runner, with the tokens of a cold run."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.command import AGENTCACHE


@pytest.mark.vllm
def test_reuse_is_exact_through_our_kernels(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    out = tmp_path / "out.json"
    command = [*AGENTCACHE, "verify", "--attention", "triton", "--patterns", "20", "--json", str(out)]
    env = os.environ | {"AGENTCACHE_KERNELS_CHECK": "1"}  # vLLM's positions and block tables are compared in each call
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert (result["attention"], result["patterns"], result["mismatches"]) == ("triton", 20, 0)
    assert result["negative_control_failed"] is True
    assert result["bit_differences"] == 0
    assert result["tokens_after_hole"] > 500
    assert result["holes"] >= 10
