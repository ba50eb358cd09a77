"""Metrics of several replicas on one page."""

from prometheus_client.parser import text_string_to_metric_families

from agentcache.service.front.merged_metrics import merged, waiting

PAGE = """# HELP a_total What a is.
# TYPE a_total counter
a_total{x="1"} 2.0
a_total{x="2"} 3.0
# HELP b Size of b {odd}.
# TYPE b gauge
b 1.5
b{} 2.5
"""


def test_families_stand_together_and_series_carry_their_replica() -> None:
    page = merged({"r1": PAGE, "r2": PAGE}) + waiting({"r1": 0.5, "r2": 0.0})
    assert page.count("# TYPE a_total") == page.count("# HELP b") == 1
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert {(s.labels["replica"], s.labels["x"]): s.value for s in families["a"].samples} == {
        ("r1", "1"): 2, ("r1", "2"): 3, ("r2", "1"): 2, ("r2", "2"): 3,
    }  # fmt: skip
    assert [s.labels["replica"] for s in families["b"].samples] == ["r1", "r1", "r2", "r2"]
    assert families["agentcache_waiting_rebuild_seconds"].samples[0].value == 0.5


def test_no_replica_is_an_empty_page() -> None:
    assert list(text_string_to_metric_families(merged({}))) == []
