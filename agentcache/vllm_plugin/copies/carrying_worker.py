"""What both worker classes add for host memory: the copies of a step before it, and reports on the way back."""

import copy
from collections.abc import Callable
from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.copies.memory import HostMemory, Memory
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS, Report
from agentcache.vllm_plugin.copies.room import check_free, places_of
from agentcache.vllm_plugin.overrides import Joined, own


class CarryingWorker(Joined):
    """Takes its host memory at start, once the cache is there. Raises `ConfigError` for more than there is."""

    _memory: Memory | None = None

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        super().initialize_from_config(kv_cache_config)
        wanted = load_options(self.vllm_config.additional_config).host_memory
        if wanted is not None and (places := places_of(self.vllm_config, kv_cache_config)):
            check_free(wanted)
            self._memory = self._take_memory(compat.caches_of(self.vllm_config, kv_cache_config), places)

    @own
    def _take_memory(self, caches: list[Any], places: int) -> Memory:
        if caches[0].device.type == "cpu":
            return HostMemory(caches, places)
        from agentcache.vllm_plugin.copies.stream import CudaStreams, StreamMemory

        return StreamMemory(caches, places, CudaStreams())

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if self._memory and (orders := getattr(scheduler_output, ORDERS, None)):
            self._memory.start(orders)
        return self._reported(super().execute_model(scheduler_output, *args, **kwargs))

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        return self._reported(super().sample_tokens(*args, **kwargs))

    @own
    def _reported(self, output: Any) -> Any:
        """The output of a step, if this is one, with what has been copied up to now."""
        if self._memory is None or output is None:
            return output
        if isinstance(output, compat.AsyncModelRunnerOutput):
            return _LateOutput(output, self._memory.finished)
        return _with_reports(output, self._memory.finished())


class _LateOutput(compat.AsyncModelRunnerOutput):
    """An output that is waited for elsewhere, and then has what has been copied by that time."""

    def __init__(self, output: Any, finished: Callable[[], list[Report]]) -> None:
        self._output, self._finished = output, finished

    def get_output(self) -> Any:
        return _with_reports(self._output.get_output(), self._finished())


def _with_reports(output: Any, reports: list[Report]) -> Any:
    output = copy.copy(output)  # vLLM has one for all steps that compute nothing
    setattr(output, REPORTS, reports)
    return output
