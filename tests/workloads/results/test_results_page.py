"""The page from canned rows: ratios, gaps, losers, goals, and the sections of other benchmarks."""

from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import ConfigError
from agentcache_workloads.results.compare import Comparison
from agentcache_workloads.results.config import Figure, Goal, Matrix, Workload
from agentcache_workloads.results.results_page import figure_section, page, table
from agentcache_workloads.results.rows import Row
from agentcache_workloads.results.sections import bench_section

SAVED = {
    # policy: saved percent by (slots, seed)
    "vllm-lru": {("4", "1"): 60.0, ("4", "2"): 70.0, ("8", "1"): 90.0, ("8", "2"): 90.0},
    "good": {("4", "1"): 65.0, ("4", "2"): 72.0, ("8", "1"): 91.0, ("8", "2"): 90.0},
    "bad": {("4", "1"): 66.0, ("4", "2"): 66.0, ("8", "1"): 89.0, ("8", "2"): 88.0},
    "belady-compute": {("4", "1"): 70.0, ("4", "2"): 80.0, ("8", "1"): 90.2, ("8", "2"): 90.2},
}


def row(policy: str, slots: str, seed: str, saved: float, **changes: str) -> Row:
    return {
        "variant": "", "arrival": "closed", "profile": "h20-like", "slots": slots, "cache_tokens": "500000",
        "block_size": "512", "seed": seed, "policy": policy, "admission": "fcfs", "hints": "True", "jobs": "10",
        "calls": "400", "live_pool": {"4": "2.5", "8": "0.5"}[slots], "saved_percent": str(saved), "cpu_s": "30",
        "cpu_model": "Made Up 9000", "cores": "2", "date": "2026-01-02", "commit": "abcdef0123456789-dirty",
        "code": "c0de", "key": "k", **changes,
    }  # fmt: skip


@pytest.fixture
def rows() -> list[Row]:
    return [row(p, *at, saved) for p, values in SAVED.items() for at, saved in values.items()]


def goal(**changes: Any) -> Goal:
    fields = {"text": "wins", "column": "saved_percent", "row": "good", "how": "difference", "at_least": 1.0}
    return Goal(**{**fields, **changes})


P4 = ("", "closed", "h20-like", "4", "500000", "512")
P8 = ("", "closed", "h20-like", "8", "500000", "512")


def test_pairs_are_of_one_cell_and_one_seed(rows: list[Row]) -> None:
    comparison = Comparison(rows)
    assert comparison.value("good", P4, "saved_percent") == 68.5
    assert comparison.against("good", "vllm-lru", P4, "saved_percent") == 3.5
    assert comparison.against("bad", "vllm-lru", P4, "saved_percent", "ratio") == pytest.approx((66 / 60 + 66 / 70) / 2)
    assert comparison.against("nobody", "vllm-lru", P4, "saved_percent") is None


def test_the_gap_is_a_share_and_none_where_there_is_no_gap(rows: list[Row]) -> None:
    comparison = Comparison(rows)
    assert comparison.gap("good", P4) == pytest.approx((0.5 + 0.2) / 2)
    assert comparison.gap("good", P8) is None
    assert comparison.gap("belady-compute", P4) == 1.0


def test_a_loser_is_behind_by_more_than_a_tie(rows: list[Row]) -> None:
    comparison = Comparison(rows)
    assert comparison.lost("bad", P8, "saved_percent")
    assert not comparison.lost("bad", P4, "saved_percent")
    assert not comparison.lost("good", P8, "saved_percent")


@pytest.mark.parametrize(
    ("changes", "value", "cells", "met"),
    [
        ({}, (3.5 + 0.5) / 2, 2, True),
        ({"over": "min"}, 0.5, 2, False),
        ({"where": ["saved_percent < 80"]}, 3.5, 1, True),
        ({"where": ["slots = 8", "live_pool <= 0.8"]}, 0.5, 1, False),
        ({"where": ["profile = h20-like"], "over": "max"}, 3.5, 2, True),
        ({"where": ["profile = other"]}, None, 0, None),
        ({"how": "gap", "at_least": 0.4}, 0.35, 1, False),
        ({"how": "value", "at_least": None, "at_most": 80.0}, (68.5 + 90.5) / 2, 2, True),
        ({"against": ["bad", "vllm-lru"], "over": "max"}, 2.5, 2, True),
        ({"row": "nobody"}, None, 0, None),
    ],
)
def test_goals(rows: list[Row], changes: dict[str, Any], value: float | None, cells: int, met: bool | None) -> None:
    verdict = Comparison(rows).judge(goal(**changes))
    assert (verdict.value, verdict.cells, verdict.met) == (pytest.approx(value), cells, met)


def test_a_condition_that_is_none_is_refused(rows: list[Row]) -> None:
    with pytest.raises(ConfigError, match="column < number"):
        Comparison(rows).judge(goal(where=["live_pool"]))


def test_contenders_are_told_apart(rows: list[Row]) -> None:
    more = [*rows, row("good", "4", "1", 61, admission="working-set"), row("good", "4", "1", 62, hints="False")]
    assert Comparison(more).contenders[-2:] == ["good @ working-set", "good, no hints"]


@pytest.fixture
def figure() -> Figure:
    return Figure(
        name="made",
        title="Made up",
        text="What it is.",
        engine="fixed",
        workload=Workload(trace="t.jsonl"),
        matrix=Matrix(policies=tuple(SAVED), slots=(4, 8), seeds=(1, 2)),
        columns=("saved_percent",),
        headline="saved_percent",
        goals=(goal(), goal(over="min"), goal(row="nobody")),
    )


def test_the_section_shows_everything(figure: Figure, rows: list[Row]) -> None:
    text = page([figure_section(figure, rows, "made.toml", "c0de")])
    assert "| wins | median of 2 | at least 1 | 2.000 | met |" in text
    assert "| wins | lowest of 2 | at least 1 | 0.500 | **not met** |" in text
    assert "| wins | median of 0 | at least 1 | - | no rows |" in text
    assert "| `vllm-lru` | 77.5 | - | - |" in text
    assert "| `good` | 79.5 (+2.0) | 35% | 0 of 2 |" in text
    assert "| `bad` | 77.2 (-0.2) | 10% | 1 of 2 ▼ |" in text
    assert "| 8 | 0.50 | 90.0 | +0.5 | -1.5 ▼ | +0.2 |" in text
    assert "agentcache results made.toml\n" in text
    assert "Commit abcdef012345-dirty; Made Up 9000, 2 cores; 2026-01-02; 8 minutes of one core for 16 rows." in text
    assert "2 cells, seeds 1, 2; t.jsonl, report half, 10 jobs and 400 calls a run" in text
    assert "other code" not in text
    assert "16 rows were made by other code" in figure_section(figure, rows, "made.toml", "new")


def test_a_part_of_the_rows_claims_nothing_final(figure: Figure, rows: list[Row]) -> None:
    text = figure_section(figure, rows[:-1], "made.toml", "c0de")
    assert "**Incomplete**: 15 of 16 rows" in text
    assert "| met so far |" in text and "| **not met** so far |" in text
    assert "Incomplete" not in figure_section(figure, rows, "made.toml", "c0de")


def test_a_figure_without_rows_says_so(figure: Figure) -> None:
    assert "No rows yet." in figure_section(figure, [], "made.toml", "")


def test_a_bar_does_not_break_a_table() -> None:
    assert table(["a", "b"], [["x|y", "1"]])[-1] == r"| x\|y | 1 |"


SECTION = """
title = "Idle"
text = "Pairs."
command = "python scripts/bench/engine/idle.py"
order = 7
[[by]]
name = "what"
title = "measured"
[[columns]]
name = "ratio"
title = "ratio"
digits = 3
[[goals]]
text = "throughput"
column = "ratio"
where = { what = "throughput" }
at_least = 0.98
"""


def test_a_benchmark_brings_its_section(tmp_path: Path) -> None:
    (tmp_path / "idle.toml").write_text(SECTION)
    (tmp_path / "idle.csv").write_text(
        "what,ratio,commit,cpu_model,cores\nthroughput,0.97,c,m,2\nthroughput,0.99,c,m,2\nlookup,1.2,c,m,2\n"
    )
    order, text = bench_section(tmp_path / "idle.toml")
    assert order == 7
    assert "| throughput | 2 | 0.980 |\n| lookup | 1 | 1.200 |" in text
    assert "| throughput | 2 | at least 0.98 | 0.980 | met |" in text
    assert "Commit c; m, 2 cores; 3 rows." in text


@pytest.mark.parametrize(
    ("toml", "rows", "error"),
    [
        (SECTION, "what,speed\na,1\n", ConfigError),
        (SECTION, "what,ratio\na,fast\n", ConfigError),
        (SECTION.replace("at_least = 0.98", ""), "what,ratio\nthroughput,1\n", ConfigError),
        (SECTION + "nonsense = 1", "what,ratio\na,1\n", ConfigError),
    ],
)
def test_bad_sections_are_refused(tmp_path: Path, toml: str, rows: str, error: type[Exception]) -> None:
    (tmp_path / "idle.toml").write_text(toml)
    (tmp_path / "idle.csv").write_text(rows)
    with pytest.raises(error, match="page was not written"):
        bench_section(tmp_path / "idle.toml")


def test_a_section_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "idle.toml").write_text(SECTION)
    _, text = bench_section(tmp_path / "idle.toml")
    assert "Not measured yet." in text
