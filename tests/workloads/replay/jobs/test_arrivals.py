"""Arrival of jobs: each kind, its rate, and what is refused."""

from statistics import fmean, stdev

import pytest

from agentcache.errors import ConfigError
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.jobs import PlannedJob

JOBS = [PlannedJob(f"j{i}", (), arrival_s=10.0 * i) for i in range(4000)]


def gaps(times: list[float] | None) -> list[float]:
    assert times is not None
    return [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]


def test_a_closed_loop_has_no_arrivals_of_its_own() -> None:
    assert arrival_times("closed", JOBS, 1) is None


def test_all_at_once_and_as_recorded() -> None:
    assert arrival_times("all-at-once", JOBS[:2], 1) == [0.0, 0.0]
    assert arrival_times("trace", JOBS[:3], 1, time_scale=0.5) == [0.0, 5.0, 10.0]


@pytest.mark.parametrize(("spec", "cv"), [("poisson:0.5", 1.0), ("gamma:0.5,0.25", 0.25), ("gamma:0.5,2", 2.0)])
def test_drawn_gaps_have_their_rate_and_spread(spec: str, cv: float) -> None:
    drawn = gaps(arrival_times(spec, JOBS, 1))
    assert fmean(drawn) == pytest.approx(2.0, rel=0.1)
    assert stdev(drawn) / fmean(drawn) == pytest.approx(cv, rel=0.1)
    assert drawn == gaps(arrival_times(spec, JOBS, 1)) != gaps(arrival_times(spec, JOBS, 2))


@pytest.mark.parametrize(
    "spec", ["poisson", "poisson:0", "poisson:x", "gamma:1", "weibull:2", "closed:3", "gamma:1,nan"]
)
def test_others_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="nothing was started"):
        arrival_times(spec, JOBS, 1)


def test_a_trace_without_arrivals_is_refused() -> None:
    with pytest.raises(ConfigError, match="when job x arrived"):
        arrival_times("trace", [PlannedJob("x", ())], 1)
