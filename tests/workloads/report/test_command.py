import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.report.command import merged, report
from agentcache_workloads.report.summary import changes

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def files(result: dict[str, Any], run: Make, tmp_path: Path) -> list[Path]:
    """Two results: the later has another commit, and is slower under one of the policies."""
    later = result | {"commit": "9999", "runs": [run("vllm-lru", 33.4), run("asymcache", 52.2, computed_tokens=55_000)]}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, value in zip(
        paths, (result | {"runs": [run("vllm-lru", 33.4), run("asymcache", 26.1)]}, later), strict=True
    ):
        path.write_text(json.dumps(value))
    return paths


def test_results_are_compared_run_by_run(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    report(files, page)
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines() if " b " in line] == [
        ["vllm-lru", "b", "1", "1.000", "1.000", "1.000", "1.000", "1.000"],
        ["asymcache", "b", "1", "2.000", "2.000", "2.000", "0.306", "2.000"],
    ]
    html = page.read_text()
    assert "Against the first result" in html
    assert "a 0123abc, b 9999" in html
    one, two = changes(merged(files)["runs"])
    assert (one.label, two.ratio("job_latency_s.mean")) == ("vllm-lru", 2.0)


def test_one_result_is_its_own_page(files: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report(files[:1], page)
    assert "Against the first result" not in page.read_text()


def test_what_cannot_be_compared_is_refused(files: list[Path], tmp_path: Path, result: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        merged([files[0], files[0]])
    other = tmp_path / "other.json"
    other.write_text(json.dumps(result | {"trace": "another"}))
    with pytest.raises(ConfigError, match="different traces"):
        merged([files[0], other])
    for text in ("{", "[]", '{"schema": "agentcache-replay/1"}'):
        other.write_text(text)
        with pytest.raises(InputError, match="no report was written"):
            merged([other])
    with pytest.raises(InputError, match="cannot be read"):
        merged([tmp_path / "none.json"])


def test_same_names_in_two_folders_are_told_apart(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    twin = tmp_path / "x" / "a.json"
    twin.write_text(files[0].read_text())
    assert {run["source"] for run in merged([files[0], twin])["runs"]} == {str(files[0]), str(twin)}
