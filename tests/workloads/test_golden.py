"""Golden numbers: exact hits and rebuild seconds of each policy on the small trace, at three pool sizes.

They change only when a policy, the cost model or the trace changes, and then for a reason that the commit gives.
"""

from pathlib import Path

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.sim.fixed import FixedRun, run_fixed
from agentcache_workloads.replay.engines.recorded_turns import recorded_turns
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.spec import Selection

TRACE = Path(__file__).parents[2] / "workloads" / "data" / "cc_weka.cut.jsonl.zst"
H20_LIKE = CostProfile(c_lin=1.80e-4, c_att=3.54e-9)
BLOCK = 64  # the trace's own

# (policy, pool in blocks): (block hits, of them behind a hole, prefill seconds paid)
GOLDEN: dict[tuple[str, int], tuple[int, int, float]] = {
    ("vllm-lru", 1200): (73146, 0, 3481.045),
    ("lru", 1200): (73146, 0, 3481.045),
    ("lru-holes", 1200): (73116, 1005, 3473.057),
    ("asymcache", 1200): (73116, 1005, 3473.057),
    ("asymcache-paper", 1200): (72932, 3636, 3472.426),
    ("asymcache-periodic", 1200): (73116, 1005, 3473.057),
    ("vllm-lru", 2500): (125780, 0, 1949.699),
    ("lru", 2500): (125780, 0, 1949.699),
    ("lru-holes", 2500): (125766, 11376, 1896.327),
    ("asymcache", 2500): (125764, 12357, 1890.847),
    ("asymcache-paper", 2500): (125678, 19262, 1859.548),
    ("asymcache-periodic", 2500): (125297, 11739, 1896.631),
}


@pytest.fixture(scope="module")
def turns() -> list:
    return recorded_turns(load_plan(TRACE, Selection(sessions=14, max_calls=14)).jobs, slots=6)


def simulate(turns: list, policy: str, blocks: int) -> FixedRun:
    return run_fixed(turns, policy, CostModel(H20_LIKE, BLOCK), blocks)


@pytest.mark.parametrize(("policy", "blocks"), GOLDEN)
def test_golden_numbers(turns: list, policy: str, blocks: int) -> None:
    run = simulate(turns, policy, blocks)
    assert (run.hits, run.hits_after_hole, round(run.paid_s, 3)) == GOLDEN[policy, blocks]


def test_the_control_equals_stock(turns: list) -> None:
    ours, stock = (simulate(turns, policy, 2500).rows for policy in ("lru", "vllm-lru"))
    assert ours == stock


def test_where_everything_fits_policies_are_equal(turns: list) -> None:
    paid = {simulate(turns, policy, 30_000).paid_s for policy in ("lru", "lru-holes", "asymcache", "asymcache-paper")}
    assert len(paid) == 1
