import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.report.page import number, render, write_report

Make = Callable[..., dict[str, Any]]


class Cells(HTMLParser):
    """Collects the text of the tables' body cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


def test_the_table_has_values_and_ratios_to_stock(result: dict[str, Any]) -> None:
    table = Cells(render(result)).rows
    assert table[1] == [
        "vllm-lru", "fcfs", "33.40 1.00x", "46.76 1.00x", "1.67 1.00x", "10.0", "0.0", "180,000 1.00x",
        "0.40", "5,000", "0",
    ]  # fmt: skip
    assert table[3] == [
        "asymcache", "fcfs", "26.10 0.78x", "36.54 0.78x", "1.31 0.78x", "45.0", "35.0", "110,000 0.61x",
        "0.40", "5,000", "0",
    ]  # fmt: skip
    assert all(len(row) == len(table[0]) for row in table[:4])
    assert all(len(row) == len(table[4]) for row in table[4:])


def test_admission_has_its_own_column_and_errors_of_all_seeds_are_added(result: dict[str, Any], run: Make) -> None:
    ours = [run("asymcache", 5, seed, admission="working-set", errors=seed) for seed in (1, 2, 3)]
    table = Cells(render(result | {"runs": [run("vllm-lru", 10), *ours]})).rows
    assert table[1][:3] == ["vllm-lru", "fcfs", "10.00 1.00x"]
    assert table[2][:3] == ["asymcache", "working-set", "5.00 0.50x"]
    assert [row[-1] for row in table[1:3]] == ["0", "6"]


def test_what_was_run_and_how_to_run_it_again(result: dict[str, Any]) -> None:
    page = render(result)
    assert "<dt>Trace</dt><dd>cc_weka.jsonl.zst</dd>" in page
    assert "<dt>Host</dt><dd>cpu Some CPU, cores 2, memory gib 15.50</dd>" in page
    assert "<dt>Cache, tokens</dt><dd>4,480</dd>" in page
    assert "<dt>Hints</dt><dd>on</dd>" in page
    assert "Cost profile" not in page  # unknown: left out
    assert f"<pre>{result['command']}</pre>" in page
    assert "To run it again" not in render(result | {"command": None})


def test_the_page_needs_nothing_else(result: dict[str, Any]) -> None:
    page = render(result)
    assert not re.search(r"<script|<link|<img|@import|src=", page)
    loaded = set(re.findall(r"https?://[^\"' )]+", page))
    assert all("w3.org" in address for address in loaded), "namespaces only"


def test_text_from_the_result_is_escaped(result: dict[str, Any], run: Make) -> None:
    page = render(result | {"trace": "<b>&", "runs": [run("<i>x</i>", 1.0)]})
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "<i>x</i>" not in page
    hostile = '</dd><script>alert("x")</script><img src=x onerror=alert(1)>'
    for page in (
        render(result | {"trace": hostile}),
        render(result | {"trace": {hostile: hostile}}),
        render(result | {"command": hostile, "commit": hostile, "host": {"cpu": hostile}}),
        render(result | {"runs": [run(hostile, 1.0, admission=hostile, profile=hostile)]}),
    ):
        assert "<script" not in page
        assert "<img" not in page


def test_limits_say_what_this_run_cannot_show(result: dict[str, Any], run: Make) -> None:
    assert "One seed" in render(result)
    assert "3.10 times the pool" in render(result)
    assert "calls failed" not in render(result)
    two = result | {"runs": [run("lru", 2, 1, live_pool=0.5, errors=3), run("lru", 2, 2, live_pool=0.5)]}
    assert "One seed" not in render(two)
    assert "medians over 2 seeds" in render(two)
    assert "everything fits" in render(two)
    assert "3 calls failed" in render(two)


def test_a_run_that_knows_almost_nothing_still_has_a_page(result: dict[str, Any]) -> None:
    page = render(result | {"runs": [{"policy": "vllm-lru", "seed": 1}], "host": None, "commit": None})
    assert "No job finished" in page
    assert Cells(page).rows[1] == ["vllm-lru", *["-"] * 10]


def nulls(value: Any) -> Any:
    """The same object with every number in it unknown."""
    if isinstance(value, dict):
        return {key: nulls(item) for key, item in value.items()}
    return None if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_a_number_that_is_null_is_a_dash(result: dict[str, Any]) -> None:
    unknown = [nulls(run) | {"seed": 1, "job_latencies_s": []} for run in result["runs"]]
    table = Cells(render(result | {"runs": unknown})).rows
    assert table[1] == ["vllm-lru", "fcfs", *["-"] * 9]
    assert all(row[2:] == ["-"] * (len(row) - 2) for row in table[5:])


def test_equal_results_give_equal_pages(result: dict[str, Any], tmp_path: Path) -> None:
    write_report(result, tmp_path / "one.html")
    write_report(result, str(tmp_path / "two.html"))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one.html", "two.html"]


def test_what_cannot_be_shown_leaves_no_file(result: dict[str, Any], tmp_path: Path) -> None:
    for broken in (result | {"schema": "agentcache-verify/1"}, result | {"runs": []}, {}):
        with pytest.raises(InputError, match="no report was written"):
            write_report(broken, str(tmp_path / "report.html"))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(result, str(tmp_path / "nowhere" / "report.html"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place in ("folder", "file/report.html"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write_report(result, str(tmp_path / place))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_number() -> None:
    assert number(1234.567) == "1,234.57"
    assert number(0.0, 0) == "0"
    assert number(None) == "-"
