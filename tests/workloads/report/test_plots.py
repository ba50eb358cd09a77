import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from agentcache_workloads.report.plots import (
    BAND,
    INK,
    PIXELS,
    _bands,
    latency_cdf,
    residency_bands,
    token_bars,
    ttft_bars,
)
from agentcache_workloads.report.summary import rows

Make = Callable[..., dict[str, Any]]


def texts(svg: str) -> list[str]:
    return [
        " ".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    ]


def test_cdf_has_a_line_for_each_policy_and_is_absent_without_latencies(result: dict[str, Any], run: Make) -> None:
    svg = latency_cdf(rows(result["runs"]))
    assert svg is not None
    assert {"vllm-lru", "lru-holes", "asymcache", "job latency, seconds"} <= set(texts(svg))
    assert latency_cdf(rows([run("vllm-lru", 1, job_latencies_s=[])])) is None


def test_bars_show_shares_of_computed_and_cached(result: dict[str, Any]) -> None:
    shown = texts(token_bars(rows(result["runs"])))
    # Stock: 180k computed, 20k prefix; lru-holes: 150k, 30k behind a hole; asymcache: 110k, 70k.
    assert [text for text in shown if text.endswith("%")] == ["90%", "75%", "55%", "15%", "35%", "10%", "10%", "10%"]


def test_bars_of_runs_that_know_no_tokens_are_empty(run: Make) -> None:
    unknown = run("vllm-lru", 1, computed_tokens=None, cached_tokens=None, cached_tokens_after_hole=None)
    assert "vllm-lru" in texts(token_bars(rows([unknown])))


def test_a_label_that_looks_like_markup_is_only_text(run: Make) -> None:
    svg = token_bars(rows([run("<script>x</script>", 1)]))
    assert "<script>" not in svg
    assert "<script>x</script>" in texts(svg)


@pytest.mark.parametrize("name", [r"$\frac$", "a$b$c", "_hidden"])
def test_a_label_that_means_something_to_the_plotter_is_only_text(run: Make, name: str) -> None:
    table = rows([run(name, 1)])
    for svg in (latency_cdf(table), token_bars(table)):
        assert svg is not None
        assert name in texts(svg)


def test_bars_never_run_backwards(run: Make) -> None:
    one, two = run("lru-holes", 1, cached_tokens=None), run("lru-holes", 1, cached_tokens=None)
    one["cached_tokens_after_hole"], two["cached_tokens_after_hole"] = 30_000, 0
    shown = [text for text in texts(token_bars(rows([one]))) if text.endswith("%")]
    assert shown == ["86%", "14%"]  # 180k computed, 30k behind a hole, no prefix known
    assert [text for text in texts(token_bars(rows([two]))) if text.endswith("%")] == ["100%"]


def test_plots_take_the_page_colours_and_share_no_ids(result: dict[str, Any]) -> None:
    table = rows(result["runs"])
    cdf, bars = latency_cdf(table), token_bars(table)
    assert cdf is not None
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (cdf, bars)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip((cdf, bars), ids, strict=True):
        assert INK not in svg
        assert "currentColor" in svg
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= known


def test_equal_results_draw_equal_plots(result: dict[str, Any]) -> None:
    table = rows(result["runs"])
    assert latency_cdf(table) == latency_cdf(table)
    assert token_bars(table) == token_bars(table)


def test_times_to_first_token_stand_by_what_the_turn_follows(run: Make) -> None:
    shown = texts(ttft_bars(rows([run("vllm-lru", 10), run("lru", 5)])) or "")
    assert {"first turn", "after a tool", "after the user", "vllm-lru", "lru"} <= set(shown)
    assert ttft_bars(rows([run("lru", 5, ttft_s={"all": {"mean": 1.0}})])) is None


def test_a_band_is_a_context_from_its_first_token_at_the_bottom() -> None:
    """Resident, then a hole at its head and a shared block, then gone; the second context comes later, and is short."""
    seen = {
        "times_s": [0.0, 5.0, 10.0],
        "contexts": [
            {"name": "a", "states": ["9r", "6h3s", None]},
            {"name": "b", "states": [None, "1r", "9r"]},
        ],
    }
    picture = _bands(seen, 20.0)
    assert picture.shape == (2 * BAND, PIXELS)
    early, middle, late = picture[:, 10], picture[:, PIXELS * 3 // 8], picture[:, -1]
    assert early.tolist() == [1] * 9 + [0] + [0] * 10
    assert middle.tolist() == [2] * 3 + [3] * 6 + [0] + [0] * 8 + [1] + [0]
    assert late.tolist() == [0] * 10 + [1] * 9 + [0]


def test_without_looks_there_is_no_picture_of_the_memory(run: Make) -> None:
    assert residency_bands(rows([run("lru", 5)])) is None
    seen = {"times_s": [0.0, 1.0], "contexts": [{"name": "a", "states": ["3r", "1h2r"]}]}
    svg = residency_bands(rows([run("vllm-lru", 5), run("lru", 5, residency=seen)])) or ""
    assert "lru" in texts(svg)
    assert "data:image/png;base64," in svg
