"""Leases over a policy: still a policy, and leased blocks go last."""

from agentcache.model import Block, Context, JobFinished
from agentcache.policy import Policy, make_policy
from agentcache.policy.base import FollowsPrices, FollowsSurvival
from agentcache.vllm_plugin.link.leases import ServiceLeases
from tests.policy.conformance import COST
from tests.policy.owners import owned


def two_jobs() -> tuple[ServiceLeases, dict[str, list[Block]]]:
    policy = ServiceLeases(make_policy("lru", COST, 16))
    jobs = {}
    for release, name in enumerate(("old", "new"), 1):
        owners = owned(Context(name, name))
        jobs[name] = [
            Block(10 * release + i, f"{name}{i}", i, release, float(release), owners=owners) for i in range(4)
        ]
        policy.offer_all(jobs[name][::-1], float(release))
    return policy, jobs


def test_leased_blocks_go_last_and_come_back_when_the_lease_ends() -> None:
    policy, jobs = two_jobs()
    assert policy.grant("old", 10.0, 35, jobs["old"]) == 4
    taken = policy.victims(3, frozenset(), 5.0)
    assert taken is not None
    assert set(taken) < set(jobs["new"])
    policy.check()
    assert set(policy.victims(3, frozenset(), 11.0) or []) & set(jobs["old"])
    policy.check()


def test_a_block_that_two_branches_share_is_kept_once() -> None:
    policy, jobs = two_jobs()
    assert policy.grant("old", 10.0, 35, [*jobs["old"], *jobs["old"][:2]]) == 4
    policy.check()
    policy.touch_all(jobs["old"] + jobs["new"], 5.0)
    assert len(policy) == 0


def test_leases_that_are_renewed_for_ever_leave_no_ends_behind() -> None:
    policy, jobs = two_jobs()
    for second in range(2000):
        policy.grant("old", second + 600.0, 35, jobs["old"])
    assert len(policy._ends) < 100
    policy.offer_all([Block(99, "x", 0)], 2500.0)
    assert policy.holders() == ["old"]
    policy.victims(1, frozenset(), 2600.0)
    assert not policy.holders()
    policy.check()


def test_pressure_ends_the_least_important_lease_first() -> None:
    policy, jobs = two_jobs()
    policy.grant("old", 100.0, 50, jobs["old"])
    policy.grant("new", 100.0, 20, jobs["new"])
    assert set(policy.victims(4, frozenset(), 5.0) or []) == set(jobs["new"])
    assert (policy.leases.pressed, policy.holders()) == (1, ["old"])


def test_it_is_what_its_inner_policy_is() -> None:
    policy = ServiceLeases(make_policy("return-index", COST, 16))
    assert isinstance(policy, Policy) and isinstance(policy, FollowsSurvival) and isinstance(policy, FollowsPrices)
    assert policy.guard is policy.inner.guard  # type: ignore[attr-defined]
    assert (policy.name, policy.reuse) == ("return-index", "holes")
    policy.observe(JobFinished("nobody"), 0.0)
