"""How many replicas the waiting rebuild seconds ask for."""

from types import SimpleNamespace

import pytest

from agentcache.errors import ConfigError
from agentcache.service.autoscaling import METRIC, ByRebuildSeconds


@pytest.mark.parametrize(
    ("waiting", "now", "wanted"),
    [
        ([0.0], 1, 1),
        ([0.0], 0, 1),
        ([5.0], 1, 3),
        ([50.0], 1, 4),
        ([2.0, 2.0], 2, 2),
        ([2.0, 1.5], 2, 2),
        ([0.5, 0.4], 2, 1),
        ([0.0, 0.0, 0.0], 3, 2),
        ([0.0], 4, 3),
    ],
)
def test_replicas_follow_what_waits(waiting: list[float], now: int, wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={METRIC: dict(enumerate(waiting))},
        target_num_replicas=now,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
    )
    assert ByRebuildSeconds(2.0)(context) == (wanted, {})


def test_before_anything_is_recorded_nothing_changes_for_the_worse() -> None:
    context = SimpleNamespace(
        aggregated_metrics=None,
        target_num_replicas=1,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
    )
    assert ByRebuildSeconds()(context)[0] == 1
    with pytest.raises(ConfigError):
        ByRebuildSeconds(0)
