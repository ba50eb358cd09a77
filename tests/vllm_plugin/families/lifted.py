"""What these tests want otherwise than vLLM or we do: lifted in a process of their own, before its first engine."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def caching_of_latents() -> None:
    """MLA on a CPU without AMX: vLLM switches prefix caching and chunked prefill off, which its kernels can do."""
    platform = import_module("vllm.platforms.cpu").CpuPlatform
    stock = platform.check_and_update_config.__func__

    def check_and_update_config(cls: type, config: Any) -> None:
        places = [
            (config.scheduler_config, "enable_chunked_prefill"),
            (config.scheduler_config, "max_num_batched_tokens"),
            (config.cache_config, "enable_prefix_caching"),
        ]
        asked = [(where, name, getattr(where, name)) for where, name in places]
        stock(cls, config)
        for where, name, value in asked:
            setattr(where, name, value)

    platform.check_and_update_config = classmethod(check_and_update_config)


def checkpoints_of_mamba2() -> None:
    """vLLM takes a state from within a chunk, which its Mamba 2 on a CPU does not give: now it cuts chunks instead."""
    module = import_module("vllm.model_executor.layers.mamba.mamba_mixer2")
    module.MambaMixer2.get_kv_cache_spec = module.MambaBase.get_kv_cache_spec


def ways_of_connectors() -> None:
    """Of a connector that does not come with vLLM nothing is known: of that of these tests it is."""
    import_module("agentcache.vllm_plugin.levels.findings").own_connector = lambda given: True


LIFTED: dict[str, Callable[[], None]] = {
    "MLA": caching_of_latents,
    "Mamba 2": checkpoints_of_mamba2,
    "connectors": ways_of_connectors,
}
