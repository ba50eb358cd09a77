"""The worker class for CPUs, and the one that runs fused mode: several segments of a request in one step."""

from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.carrying_worker import CarryingWorker
from agentcache.vllm_plugin.levels import check_backends
from agentcache.vllm_plugin.rows.planned_worker import PlannedWorker
from agentcache.vllm_plugin.rows.runners import SegmentedRunner, SegmentedRunnerV2

STOCK = "agentcache.vllm_plugin.rows.cpu_segments.SegmentedCPUBackend"
TRITON = "agentcache.vllm_plugin.rows.backend.SegmentBackend"
"""The same kernels as on a GPU, for `--attention-backend CUSTOM`; they need Triton's interpreter here."""


class AgentCacheCPUWorker(PlannedWorker, CarryingWorker, compat.CPUWorker):
    """`--worker-cls agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker`"""

    def init_device(self) -> None:
        # The CPU platform looks its backend up under this one name; the registry is this process's own.
        custom = self.vllm_config.attention_config.backend is compat.AttentionBackendEnum.CUSTOM
        compat.register_backend(compat.AttentionBackendEnum.CPU_ATTN, TRITON if custom else STOCK)
        mixin = SegmentedRunnerV2 if self.use_v2_model_runner else SegmentedRunner
        with compat.cpu_runner_class(
            self.use_v2_model_runner, lambda stock: type("SegmentedCPUModelRunner", (mixin, stock), {})
        ):
            super().init_device()

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        super().initialize_from_config(kv_cache_config)
        check_backends(self.vllm_config, kv_cache_config, compat.backends_of(self.model_runner))
