"""The worker class for CUDA devices. It makes the second model runner follow jumps; fused steps want a GPU backend."""

from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.carrying_worker import CarryingWorker
from agentcache.vllm_plugin.levels import check_backends
from agentcache.vllm_plugin.rows.planned_worker import PlannedWorker
from agentcache.vllm_plugin.rows.runners import SegmentedRunner, SegmentedRunnerV2


class AgentCacheGPUWorker(PlannedWorker, CarryingWorker, compat.GPUWorker):
    """`--worker-cls agentcache.vllm_plugin.gpu_worker.AgentCacheGPUWorker`"""

    def _make_model_runner(self) -> Any:
        runner = super()._make_model_runner()
        mixin = SegmentedRunnerV2 if self.use_v2_model_runner else SegmentedRunner
        # The runner has just been built and holds no state that the mixin would have to set up.
        return compat.adopt(runner, type(runner), type("SegmentedGPUModelRunner", (mixin, type(runner)), {}))

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        super().initialize_from_config(kv_cache_config)
        check_backends(self.vllm_config, kv_cache_config, compat.backends_of(self.model_runner))
