"""Survival: curves against closed forms, censoring, and the tree of classes."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.model import Context, Standing
from agentcache.policy.survival import BUCKETS, EDGES, Curve, Survival, bucket


def learn(survival: Survival, pauses: list[float | None], standing: Standing = Standing.TOOL) -> None:
    """Pauses that end after so many seconds, or (None) are given up after an hour."""
    for pause_s in pauses:
        context = Context("c", "j", standing=standing, depth=2)
        survival.paused(context, 0.0)
        if pause_s is None:
            survival.lost(context, 3600.0)
        else:
            survival.returned(context, pause_s)
    survival.rebuild(0.0)


def idle(survival: Survival, standing: Standing = Standing.TOOL) -> Context:
    context = Context("asked", "j", standing=standing, depth=2)
    survival.paused(context, 0.0)
    return context


@given(st.floats(0, 1e6))
def test_a_bucket_holds_its_ages(age_s: float) -> None:
    j = bucket(age_s)
    assert EDGES[j] <= age_s
    assert age_s < EDGES[j + 1] or j == BUCKETS - 1


@given(st.lists(st.floats(0, 1), min_size=BUCKETS, max_size=BUCKETS))
def test_the_index_is_the_best_ratio_of_returns_to_waiting(hazard: list[float]) -> None:
    curve = Curve(hazard)
    for start in (0, 7, BUCKETS - 1):
        alive, returned, waited, best = 1.0, 0.0, 0.0, 0.0
        for j in range(start, BUCKETS):
            q = min(hazard[j], 1 - 1e-9)
            waited += alive * (EDGES[j + 1] - EDGES[j]) * (1 - q / 2)
            returned += alive * q
            alive *= 1 - q
            best = max(best, returned / waited)
        # The curve subtracts numbers near each other where almost nobody is left alive.
        if math.prod(1 - min(q, 1 - 1e-9) for q in hazard[:start]) > 1e-6:
            assert curve.rates[start] == pytest.approx(best, rel=1e-5)


@given(st.lists(st.floats(0, 0.9), min_size=BUCKETS, max_size=BUCKETS), st.floats(0, 1e4), st.floats(0, 1e4))
def test_probabilities_are_probabilities(hazard: list[float], age_s: float, window_s: float) -> None:
    curve = Curve(hazard)
    assert 0 <= curve.p_return(age_s, window_s) <= 1
    assert curve.p_return(age_s, window_s) <= curve.p_return(age_s, window_s + 60) + 1e-9


def test_exponential_pauses_come_back_at_their_rate_whatever_their_age() -> None:
    survival, draw = Survival(), random.Random(1)
    learn(survival, [draw.expovariate(1 / 20) for _ in range(4000)])
    context = idle(survival)
    rates = survival.rates(context)
    assert rates[bucket(1.0)] == pytest.approx(1 / 20, rel=0.25)
    assert rates[bucket(30.0)] == pytest.approx(1 / 20, rel=0.25)
    assert survival.p_return(context, 10.0, 20.0) == pytest.approx(1 - math.exp(-1), abs=0.05)


def test_those_that_never_return_count() -> None:
    survival, draw = Survival(), random.Random(2)
    learn(survival, [draw.expovariate(1 / 5) if draw.random() < 0.2 else None for _ in range(2000)])
    context = idle(survival)
    assert survival.p_return(context, 0.0, 3000.0) == pytest.approx(0.2, abs=0.03)
    assert survival.p_return(context, 60.0, 3000.0) < 0.02, "who has been away that long is not coming back"


def test_the_still_waiting_count_at_their_age() -> None:
    survival = Survival()
    waiting = [Context(str(i), "j", standing=Standing.TOOL, depth=2) for i in range(100)]
    for context in waiting:
        survival.paused(context, 0.0)
    learn(survival, [1.0] * 100)
    survival.rebuild(1000.0)
    assert survival.p_return(waiting[0], 0.0, 10.0) == pytest.approx(0.5, abs=0.1)


def test_a_context_that_ended_says_nothing() -> None:
    survival = Survival()
    learn(survival, [1.0] * 100)
    before = survival.p_return(idle(survival), 0.0, 10.0)
    for i in range(1000):
        context = Context(str(i), "j", standing=Standing.TOOL, depth=2)
        survival.paused(context, 0.0)
        survival.ended(context)
    survival.rebuild(5000.0)
    assert survival.p_return(idle(survival), 0.0, 10.0) == pytest.approx(before, abs=0.02)


def test_classes_speak_for_themselves_once_they_have_seen_enough() -> None:
    survival = Survival()
    learn(survival, [1.0] * 200, Standing.TOOL)
    learn(survival, [300.0] * 20, Standing.END_TURN)
    late = survival.rates(idle(survival, Standing.END_TURN))
    assert late[bucket(2.0)] < survival.rates(idle(survival, Standing.TOOL))[0]
    assert survival.p_return(idle(survival, Standing.END_TURN), 0.0, 10.0) > 0.5, "20 returns: its parent speaks"
    learn(survival, [300.0] * 30, Standing.END_TURN)
    assert survival.p_return(idle(survival, Standing.END_TURN), 0.0, 10.0) < 0.3


def test_a_curve_is_of_its_rebuild_whoever_asks_when() -> None:
    """Estimated when somebody asks, from what had been seen when the curves were rebuilt."""
    asked, late = Survival(), Survival()
    draw = random.Random(5)
    contexts = [Context(str(i), "j", standing=Standing.TOOL, tool=f"tool{i % 5}", depth=i % 9) for i in range(400)]
    pauses = [draw.expovariate(0.1) for _ in contexts]
    for survival in (asked, late):
        for context, pause_s in zip(contexts, pauses, strict=True):
            survival.paused(context, 0.0)
            if pause_s < 20:
                survival.returned(context, pause_s)
        survival.rebuild(20.0)
    path = (Standing.TOOL, "tool3", 2)
    first = asked.curve(path).rates
    for survival in (asked, late):
        generation = survival.generation
        for context in contexts[:50]:
            survival.paused(context, 30.0)
            survival.lost(context, 31.0)
        assert survival.generation == generation, "nothing was rebuilt"
    assert late.curve(path).rates == asked.curve(path).rates == first


def test_nothing_is_known_at_first() -> None:
    survival = Survival()
    context = idle(survival)
    assert not survival.ready
    assert survival.p_return(context, 5.0, 1.0) == 1.0
    assert survival.release_age_s(context, 60.0, 0.2) == math.inf


def test_the_release_age_is_where_a_return_becomes_unlikely() -> None:
    survival, draw = Survival(), random.Random(3)
    learn(survival, [draw.uniform(0, 20) if draw.random() < 0.9 else None for _ in range(3000)])
    context = idle(survival)
    age_s = survival.release_age_s(context, 60.0, 0.2)
    assert 10 < age_s < 40
    assert survival.p_return(context, age_s + 1, 60.0) < 0.2 <= survival.p_return(context, age_s / 2, 60.0)


@given(st.lists(st.floats(0, 1), min_size=BUCKETS, max_size=BUCKETS), st.floats(0.1, 3600), st.floats(0.01, 0.99))
def test_the_release_age_is_the_end_of_the_last_bucket_with_likely_returns(
    hazard: list[float], window_s: float, theta: float
) -> None:
    curve = Curve(hazard)
    likely = [j for j, age_s in enumerate(EDGES[:-1]) if curve.p_return(age_s, window_s) >= theta]
    assert curve.release_age_s(window_s, theta) == (EDGES[likely[-1] + 1] if likely else 0.0)


@given(st.lists(st.tuples(st.sampled_from("prlex"), st.integers(0, 9), st.floats(0, 100)), max_size=60))
def test_any_order_of_events_is_taken(events: list[tuple[str, int, float]]) -> None:
    survival, now = Survival(), 0.0
    contexts = [Context(str(i), "j", standing=list(Standing)[i % 5], tool=f"t{i}", depth=i) for i in range(10)]
    for kind, i, step_s in events:
        now += step_s
        match kind:
            case "p":
                survival.paused(contexts[i], now)
            case "r":
                survival.returned(contexts[i], now)
            case "l":
                survival.lost(contexts[i], now)
            case "e":
                survival.ended(contexts[i])
            case "x":
                survival.rebuild(now)
        survival.check()
