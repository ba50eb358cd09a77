"""What a tenant's copies leave behind in the core when they change and go."""

from agentcache.api.messages import ContextState
from agentcache.cost import CostModel, CostProfile
from agentcache.policy import make_policy
from agentcache.policy.survival import Survival
from agentcache.service.directory.holdings import Held, Holdings, Record

PAGE = 100


def test_a_copy_that_shrank_and_vanished_while_it_ran_leaves_nothing() -> None:
    """Pages beyond its shorter prompt are of no context's chain, and in use when they go."""
    policy = make_policy("return-index", CostModel(CostProfile(c_lin=1e-5, c_att=1e-9), PAGE), 64)
    holdings = Holdings(policy, Survival(), max_pages=64, max_contexts=8, page_tokens=PAGE)
    record = Record(1, "t/c", "t/c")
    copy = record.copies["engine"] = Held("engine", record, "c", "c")
    whole = ((0, 5 * PAGE),)
    holdings.show(copy, ContextState("t/c", "t/c", "idle", tokens=5 * PAGE, runs=whole, depth=1), 1.0)
    holdings.show(copy, ContextState("t/c", "t/c", "running", tokens=2 * PAGE, runs=whole, depth=1), 2.0)
    holdings.check()
    holdings.drop(copy, 3.0)
    holdings.end(record, 3.0)
    holdings.check()
    assert (len(holdings.residency), dict(holdings.residency.contexts.owned)) == (0, {})
