"""Survival over many contexts: all are known, a sample is learnt from, and the sample does not distort."""

import random

import pytest

from agentcache.model import Context, Standing
from agentcache.policy.survival import Survival
from agentcache.service.directory.sampled_survival import REBUILD_S, SAMPLE, ClusterSurvival


def contexts(number: int) -> list[Context]:
    return [Context(f"t/{i}", f"t/{i}", standing=Standing.TOOL, tool="bash", depth=2) for i in range(number)]


def test_below_the_sample_it_is_the_engines_own() -> None:
    ours, plain = ClusterSurvival(), Survival()
    for survival in (ours, plain):
        for i, context in enumerate(contexts(200)):
            survival.paused(context, 0.0)
            if i % 2:
                survival.returned(context, 1.0 + i % 7)
        survival.rebuild(20.0)
        survival.check()
    assert ours.curve(()).hazard.tolist() == plain.curve(()).hazard.tolist()


def test_of_many_a_sample_is_learnt_from() -> None:
    survival, rng = ClusterSurvival(), random.Random(1)
    everyone = contexts(8 * SAMPLE)
    for context in everyone:
        survival.paused(context, 0.0)
    assert all(survival.since(context) == 0.0 for context in everyone)
    assert SAMPLE / 4 < len(survival._sampled) <= SAMPLE
    returning = [context for context in everyone if rng.random() < 0.6]
    for context in returning:
        survival.returned(context, 5.0)
    survival.rebuild(5.0 + REBUILD_S)
    # 60 % came back at 5 s; the others are still away.
    assert survival.curve(()).p_return(0.0, 20.0) == pytest.approx(0.6, abs=0.08)
    left = set(everyone) - set(returning)
    assert all(survival.since(context) == 0.0 for context in left)
    for context in left:
        survival.lost(context, 60.0)
    assert not survival._sampled
    assert all(survival.since(context) is None for context in everyone)
    survival.check()
