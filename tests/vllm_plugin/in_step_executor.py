"""An executor for which vLLM switches asynchronous scheduling off."""

from vllm.v1.executor.uniproc_executor import UniProcExecutor


class InStepExecutor(UniProcExecutor):
    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return False
