"""The command `agentcache profile`: a real engine measured, a profile that an engine takes, and bad input said."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache.cost import CostProfile
from agentcache.errors import ConfigError
from tests import forked
from tests.command import MAIN


@pytest.mark.vllm
def test_it_measures_fits_and_says_how_well(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    out = tmp_path / "tiny.json"
    command = ["profile", "--model", "tiny-llama", "--out", str(out), "--points", "30", "--repeats", "1"]
    done = forked.run("-c", MAIN, *command, "--max-len", "512", "--max-batched-tokens", "256")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 6 points left out of the fit" in done.stdout
    assert "R2 " in done.stdout
    assert ("accepted: " in done.stdout) != ("warning: expected" in done.stdout)
    profile = CostProfile.load(out)
    assert profile.model.startswith("tiny-llama")
    assert (profile.block_size, profile.n_points, profile.max_len) == (32, 30, 513)
    assert profile.c0 > 0
    assert profile.c_lin + profile.c_att > 0
    assert out.with_suffix(".svg").read_text().count("<circle") == 30

    profile.check_for(profile.model, 32)
    with pytest.raises(ConfigError, match="model tiny-llama"):
        profile.check_for("Llama-3.1-8B", 32)
    with pytest.raises(ConfigError, match="block size 32, the engine runs 16"):
        profile.check_for(profile.model, 16)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--out", "/nowhere/p.json"), "cannot be written"),
        (("--out", "p.svg"), "cannot be written"),
        (("--out", "p.json", "--max-batched-tokens", "100"), "multiple of the block size 32"),
        (("--out", "p.json", "--model", "/nowhere"), "no model folder"),
        (("--out", "p.json", "--points", "3"), "30"),
        ((), "--out"),
    ],
)
def test_bad_input_is_a_sentence(args: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["profile", *args])
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_model_without_a_context_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 512}))
    done = CliRunner().invoke(app, ["profile", "--out", str(tmp_path / "p.json"), "--model", str(tmp_path)])
    assert done.exit_code == 2
    assert "max_position_embeddings" in done.stderr
