"""Refinement converges where traffic speaks, stays where it does not, and no single time moves it far."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostProfile
from agentcache.cost.profile import COEFFICIENTS
from agentcache.cost.refine import Refiner
from agentcache.model import StepTimed
from tests.cost.test_fit import TRUE as LIGHT
from tests.cost.test_fit import timed

TRUE = replace(LIGHT, c_att=3e-8)  # contexts at whose length attention is a good part of the time


def moved(**factors: float) -> CostProfile:
    return replace(TRUE, **{name: getattr(TRUE, name) * factor for name, factor in factors.items()})


def fed(profile: CostProfile, n: int, noise: float = 0.0, **options: float) -> Refiner:
    refiner, rng = Refiner(TRUE, **options), random.Random(2)
    for _ in range(n):
        refiner.observe(timed(profile, rng, noise))
    return refiner


def test_times_as_expected_change_nothing() -> None:
    assert fed(TRUE, 50).factors == pytest.approx(dict.fromkeys(COEFFICIENTS, 1.0))


def test_it_finds_what_has_changed() -> None:
    refiner = fed(moved(c_lin=1.4, c_att=0.7, c0=1.3, c_dec=1.2), 3000, noise=0.05)
    for name, factor in {"c_lin": 1.4, "c_att": 0.7, "c0": 1.3, "c_dec": 1.2}.items():
        assert refiner.factors[name] == pytest.approx(factor, rel=0.1), name
    assert refiner.outside == frozenset()


def test_beyond_its_bounds_it_stops_and_says_so() -> None:
    refiner = fed(moved(**dict.fromkeys(COEFFICIENTS, 5.0)), 3000)
    assert refiner.profile.c_lin == pytest.approx(2 * TRUE.c_lin)
    assert {"c0", "c_lin", "c_att"} <= refiner.outside
    assert all(0.5 <= factor <= 2 for factor in refiner.factors.values())


def test_it_comes_back_when_the_engine_does() -> None:
    refiner, rng = fed(moved(c_lin=1.8), 2000), random.Random(3)
    for _ in range(4000):
        refiner.observe(timed(TRUE, rng))
    assert refiner.factors["c_lin"] == pytest.approx(1.0, abs=0.05)


def test_what_traffic_does_not_show_stays_with_the_profile() -> None:
    refiner = Refiner(TRUE)
    for _ in range(3000):  # decodes alone, each step the same
        refiner.observe(StepTimed(0.03, 0, 0.0, 8, 40_000))
    assert (refiner.factors["c_lin"], refiner.factors["c_att"], refiner.factors["c_seg"]) == pytest.approx((1, 1, 1))
    assert refiner.factors["c0"] > 1


def test_a_coefficient_of_zero_stays_zero() -> None:
    refiner = Refiner(CostProfile(c_lin=1e-4, c_att=1e-9))
    for _ in range(100):
        refiner.observe(StepTimed(0.2, 1000, 1e6, 4, 4000, 2, 1000))
    assert (refiner.profile.c0, refiner.profile.c_dec, refiner.profile.c_kv) == (0, 0, 0)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_times_that_are_none_are_ignored_and_counted(seconds: float) -> None:
    refiner = fed(moved(c_lin=1.2), 100)
    before = refiner.profile
    refiner.observe(StepTimed(seconds, 100, 1e4, 0, 0, 1))
    assert (refiner.profile, refiner.ignored, refiner.steps) == (before, 1, 100)


def test_a_step_without_anything_that_costs_teaches_nothing() -> None:
    refiner = Refiner(CostProfile(c_lin=1e-4, c_att=1e-9))
    refiner.observe(StepTimed(0.1, 0, 0.0, 5, 5000))
    assert (refiner.factors, refiner.ignored) == (dict.fromkeys(COEFFICIENTS, 1.0), 1)


@given(st.integers(0, 200), st.floats(1e-9, 1e9), st.integers(0, 10_000))
def test_the_influence_of_one_time_is_bounded(history: int, times: float, seed: int) -> None:
    """A step adds its shares to an information of at least `trust` = 2 in every direction and counts as at most a
    quarter off a prediction of at most twice the profile's: 0.25 * 2 / (2 sqrt 2), plus a step's pull towards 1."""
    refiner, rng = Refiner(TRUE), random.Random(seed)
    for _ in range(history):
        refiner.observe(timed(moved(c_lin=1.5), rng, noise=0.2))
    before = np.array(list(refiner.factors.values()))
    step = timed(TRUE, rng)
    refiner.observe(replace(step, seconds=step.seconds * times))
    after = np.array(list(refiner.factors.values()))
    assert np.linalg.norm(after - before) <= 0.18
    assert ((after >= 0.5) & (after <= 2)).all()


def test_a_stall_now_and_then_is_survived() -> None:
    refiner, rng = Refiner(TRUE), random.Random(5)
    for number in range(2000):
        step = timed(TRUE, rng, noise=0.05)
        refiner.observe(replace(step, seconds=step.seconds + 5.0) if number % 50 == 49 else step)
    assert all(0.9 < factor < 1.15 for factor in refiner.factors.values())
