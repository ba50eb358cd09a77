"""`agentcache verify`: exact on the real engine, red when reuse is broken on purpose, and strict about its flags."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from tests import forked
from tests.command import MAIN

FIELDS = {
    "schema",
    "patterns",
    "mismatches",
    "near_ties",
    "max_logprob_diff",
    "prompt_tokens",
    "recomputed_tokens",
    "holes",
    "negative_control_failed",
}
# Segments not split: one row with holes in it is computed as if it had none.
UNSPLIT = "from agentcache.vllm_plugin.rows import cpu_segments as rows; rows.split_segments = lambda common: common; "


def verify(out: Path, *args: str, before: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = forked.run("-c", before + MAIN, "verify", "--patterns", "6", "--json", str(out), *args)
    assert out.exists(), done.stderr[-3000:]
    return done, json.loads(out.read_text())


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("model", "dtype", "mode"),
    [
        ("tiny-llama", "float32", "fused"),
        ("tiny-qwen3", "bfloat16", "sequential"),
        ("tiny-moe", "float32", "fused"),
    ],
)
def test_reuse_is_exact(model: str, dtype: str, mode: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    done, result = verify(tmp_path / "out.json", "--model", model, "--dtype", dtype, "--mode", mode)
    assert done.returncode == 0, done.stdout
    assert result.keys() >= FIELDS
    assert (result["schema"], result["patterns"], result["mismatches"]) == ("agentcache-verify/1", 6, 0)
    assert result["negative_control_failed"] is True
    assert result["bit_differences"] == 0
    assert result["holes"] > 0
    assert 0 < result["recomputed_tokens"] < result["prompt_tokens"]
    assert "exact: every answer" in done.stdout


@pytest.mark.vllm
def test_host_memory_is_exact(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    done, result = verify(tmp_path / "out.json", "--host-memory", "0.03")
    assert done.returncode == 0, done.stdout
    assert (result["host_memory_gib"], result["mismatches"], result["negative_control_failed"]) == (0.03, 0, True)
    assert result["loaded_tokens"] > 0
    assert result["bit_differences"] == 0


@pytest.mark.vllm
def test_an_engine_that_does_not_split_segments_is_found_out(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    done, result = verify(tmp_path / "out.json", before=UNSPLIT)
    assert done.returncode == 1
    assert result["mismatches"] > 0
    assert "NOT EXACT: " in done.stdout
    assert "exact: every answer" not in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--dtype", "float16"), "available: float32, bfloat16"),
        (("--mode", "quick"), "available: fused, sequential"),
        (("--paths", "some"), "available: default, all"),
        (("--attention", "flash"), "available: default, triton"),
        (("--device", "tpu"), "available: engine, books"),
        (("--device", "books", "--model", "tiny-llama"), "--model has no effect with --device books"),
        (("--device", "books", "--host-memory", "1"), "--host-memory has no effect with --device books"),
        (("--host-memory", "-1"), "--host-memory"),
        (("--device", "books", "--paths", "all"), "--paths has no effect with --device books"),
        (("--device", "books", "--reproduce", "/nowhere/program.json"), "holds no program"),
        (("--policy", "lru"), "no holes to verify"),
        (("--policy", "asymcash"), "known policies"),
        (("--patterns", "0"), "--patterns"),
        (("--model", "tiny-lama"), "no model folder"),
        (("--json", "/nowhere/out.json"), "cannot be written"),
    ],
)
def test_bad_input_is_a_sentence_and_starts_nothing(
    args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the command sets an engine's environment
    done = CliRunner().invoke(app, ["verify", *args])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr
