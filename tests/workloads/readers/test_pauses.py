from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

import pytest

from agentcache.errors import ConfigError
from agentcache_workloads.readers.parts.build import make_call, make_session
from agentcache_workloads.readers.pauses import INFERCEPT, recorded_pauses, with_pauses
from agentcache_workloads.readers.trace import Session


def session(delays: list[float | None], sid: str = "s", **more: object) -> Session:
    calls = [
        make_call(i, in_tok=64, out_tok=1, items=(1,), after=i - 1 if i else None, delay_s=d, kind="tool", **more)
        for i, d in enumerate(delays)
    ]
    return make_session(sid, calls, agent="made")


def filled(spec: str, *sessions: Session, every: bool = False, seed: int = 1) -> list[list[float | None]]:
    return [[call.delay_s for call in made.calls] for made in with_pauses(sessions, spec, seed, every=every)]


def test_only_unknown_pauses_are_filled_in_unless_all_are_meant() -> None:
    assert filled("const:3", session([0.0, None, 5.0])) == [[0.0, 3.0, 5.0]]
    assert filled("const:3", session([0.0, None, 5.0]), every=True) == [[0.0, 3.0, 3.0]]
    assert filled("none", session([0.0, None])) == [[0.0, 0.0]]


def test_cycles_lose_the_service_time() -> None:
    assert filled("cycle:2", session([0.0, None], cycle_s=5.5)) == [[0.0, 3.5]]
    assert filled("cycle:9", session([0.0, None], cycle_s=5.5)) == [[0.0, 0.0]]
    assert filled("cycle:9", session([0.0, None])) == [[0.0, None]]


@pytest.mark.parametrize("kind", INFERCEPT)
def test_infercept_has_the_published_means(kind: str) -> None:
    drawn = [d for job in filled(f"infercept:{kind}", session([0.0] + [None] * 4000)) for d in job[1:] if d is not None]
    mean, deviation = INFERCEPT[kind]
    assert fmean(drawn) == pytest.approx(mean, rel=0.05, abs=1e-6)
    assert fmean((d - mean) ** 2 for d in drawn) ** 0.5 == pytest.approx(deviation, rel=0.1, abs=1e-6)


def test_a_mixed_job_has_one_kind() -> None:
    jobs = filled("infercept:mixed", *(session([0.0] + [None] * 20, str(i)) for i in range(40)))
    means = sorted(fmean(d for d in job[1:] if d is not None) for job in jobs)
    assert means[0] < 0.001
    assert means[-1] > 10


def test_bash_pauses_have_the_published_medians_and_no_tail_beyond() -> None:
    drawn = [d for job in filled("cachewise-bash", session([0.0] + [None] * 4000)) for d in job[1:] if d is not None]
    assert max(drawn) <= 182
    assert 0.1 < median(drawn) < 22


def test_pauses_of_another_trace(tiny: Path) -> None:
    known = recorded_pauses(str(tiny))
    [[_, *drawn]] = filled(f"empirical:{tiny}", session([0.0] + [None] * 50))
    assert set(drawn) <= {round(d, 6) for d in known}


def test_a_seed_and_a_job_decide(tiny: Path) -> None:
    one, two = session([0.0] + [None] * 5, "a"), session([0.0] + [None] * 5, "b")
    both = filled("lognormal:0,1", one, two)
    assert both[::-1] == filled("lognormal:0,1", two, one)
    assert both[0] != both[1]
    assert both != filled("lognormal:0,1", one, two, seed=2)


@pytest.mark.parametrize(
    "spec", ["", "const", "const:-1", "const:nan", "lognormal:1", "infercept:x", "magic:1", "none:1"]
)
def test_other_models_are_refused(spec: str, make_session: Callable[..., Session]) -> None:
    with pytest.raises(ConfigError, match="nothing was done"):
        with_pauses([make_session("s", [[1]])], spec, 1)
