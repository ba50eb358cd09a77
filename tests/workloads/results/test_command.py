"""The command `agentcache results` from a configuration to the page."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app

ROOT = Path(__file__).parents[3]
CONFIG = """
name = "tiny"
title = "Tiny figure"
text = "A few cells."
engine = "fixed"
headline = "saved_percent"
columns = ["saved_percent"]
[workload]
trace = "cc_weka.tiny.jsonl"
half = "all"
[matrix]
policies = ["vllm-lru", "lru-holes"]
cache_tokens = [200_000]
seeds = [1, 2]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


def run(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["results", *map(str, args)])
    return result.exit_code, result.output


def test_from_a_figure_to_the_page(config: Path, tmp_path: Path) -> None:
    code, output = run(config, "--jobs", "1")
    assert code == 0, output
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "## Tiny figure" in text and "`lru-holes`" in text
    assert (tmp_path / "docs" / "results" / "tiny.csv").is_file()
    again = run(config, "--jobs", "1")
    assert "0 cells run, 4 kept" in again[1]
    assert run(config, "--dry-run")[0] == 0
    assert (tmp_path / "docs" / "results.md").read_text() == text


def test_figures_are_chosen_by_patterns_too(config: Path) -> None:
    assert "4 cells run" in run(config, "--jobs", "1", "--only", "ti*")[1]
    code, output = run(config, "--only", "ti*", "--only", "x*")
    assert code == 2 and "no figure is called x*" in output


def test_a_half_is_printed_and_not_published(config: Path, tmp_path: Path) -> None:
    code, output = run(config, "--half", "tune", "--jobs", "1")
    assert code == 0 and "Tiny figure (tune half)" in output
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--half", "mine"], "expected tune, report or all"),
        (["--only", "nothing"], "no figure is called nothing"),
    ],
)
def test_bad_options(config: Path, args: list[str], message: str) -> None:
    code, output = run(config, *args)
    assert code == 2 and message in output


def test_outside_of_a_checkout(config: Path) -> None:
    code, output = run()
    assert code == 2 and "there is no figure" in output
