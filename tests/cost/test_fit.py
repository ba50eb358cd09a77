"""A fit gives back the coefficients that made the times, never a negative one, and says how good it is."""

import math
import random
from dataclasses import replace

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.fit import calibrate, features, fit
from agentcache.cost.profile import COEFFICIENTS
from agentcache.errors import InputError
from agentcache.model import StepTimed

TRUE = CostProfile(c_lin=1e-4, c_att=3e-9, c0=0.01, c_seg=0.002, c_load=1e-6, c_dec=5e-4, c_kv=4e-8)


def timed(profile: CostProfile, rng: random.Random, noise: float = 0.0) -> StepTimed:
    """A step of a random shape, and the time that a profile gives it."""
    segments, position = [], rng.randrange(0, 4000)
    linked = position
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        tokens = rng.choice((16, 64, 256, 1024))
        segments.append((position, position + tokens))
        position += tokens + 64
        linked += 64
    decodes = rng.choice((0, 0, 1, 8, 32)) if segments else rng.choice((1, 8, 32))
    context = decodes * rng.randrange(100, 8000)
    linked = linked if segments else 0
    seconds = CostModel(profile, 16).step_seconds(segments, decodes, context, linked)
    return StepTimed(
        seconds * math.exp(rng.gauss(0, noise)),
        sum(e - p for p, e in segments),
        sum(e * e - p * p for p, e in segments),
        decodes,
        context,
        len(segments),
        linked,
    )


def steps(n: int, noise: float = 0.0, profile: CostProfile = TRUE) -> list[StepTimed]:
    rng = random.Random(1)
    return [timed(profile, rng, noise) for _ in range(n)]


def test_features_are_what_the_cost_model_multiplies() -> None:
    for step in steps(50):
        assert sum(getattr(TRUE, n) * f for n, f in zip(COEFFICIENTS, features(step), strict=True)) == pytest.approx(
            step.seconds
        )


def test_exact_times_give_the_coefficients_back() -> None:
    found = fit(steps(120), CostProfile(1.0, 1.0, model="m", block_size=16))
    for name in COEFFICIENTS:
        assert getattr(found.profile, name) == pytest.approx(getattr(TRUE, name), rel=1e-6)
    assert (found.profile.model, found.profile.block_size, found.profile.n_points) == ("m", 16, 120)
    assert found.profile.r2 == pytest.approx(1.0)
    assert found.accepted(0.001, 0.001)
    assert found.negative == ()
    assert sum(point.held_out for point in found.points) == 24


def test_noise_shows_in_the_errors_of_the_points_left_out() -> None:
    found = fit(steps(400, noise=0.1), CostProfile(1.0, 1.0))
    assert found.profile.c_lin == pytest.approx(TRUE.c_lin, rel=0.1)
    assert found.profile.med_rel_err == pytest.approx(0.067, abs=0.03)  # the median of |N(0, 0.1)|
    assert not found.accepted(0.05, 0.15)
    assert [abs(point.error) < 0.5 for point in found.points].count(True) > 390


def test_a_coefficient_that_would_be_negative_is_zero_and_named() -> None:
    # Decodes make steps shorter than prefills alone would: no cost model has that.
    odd = [replace(s, seconds=s.seconds - 0.0002 * s.decodes) for s in steps(200, profile=replace(TRUE, c_dec=0.0))]
    found = fit(odd, CostProfile(1.0, 1.0))
    assert found.profile.c_dec == 0
    assert "c_dec" in found.negative


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    bad = steps(50)
    bad[7] = replace(bad[7], seconds=seconds)
    with pytest.raises(InputError, match="timed step 7 took"):
        fit(bad, CostProfile(1.0, 1.0))


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(InputError, match="13 timed steps"):
        fit(steps(13), CostProfile(1.0, 1.0))


def test_ordinary_steps_calibrate_a_prior_whose_seconds_are_wrong() -> None:
    """The scale is found; the ratio of attention to linear work stays that of the model's shape."""
    true = replace(TRUE, c_seg=0.0, c_load=0.0)
    prior = replace(true, c_lin=true.c_lin / 700, c_att=true.c_att / 700, c0=0.0, c_dec=0.0, c_kv=0.0, model="m")
    seen = steps(60, noise=0.02, profile=true)
    seen[0] = replace(seen[0], seconds=seen[0].seconds + 20)  # the first step of a process
    found = calibrate(seen, prior)
    assert found.model == "m"
    assert found.c_lin == pytest.approx(true.c_lin, rel=0.05)
    assert found.c_att / found.c_lin == pytest.approx(true.c_att / true.c_lin)
    assert found.c0 == pytest.approx(true.c0, rel=0.3)
    assert (found.c_seg, found.c_load) == (0, 0)
