"""The tree of chains: it counts what a plain set of keys counts."""

from hypothesis import given
from hypothesis import strategies as st

from agentcache.policy.chains import ChainTree


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """Chained keys: each is the path to it, so equal keys mean equal beginnings."""
    texts = draw(st.lists(st.text("ab", max_size=12), max_size=12))
    return [tuple(text[: i + 1] for i in range(len(text))) for text in texts]


@given(chains())
def test_blocks_count_once(chains: list[tuple[str, ...]]) -> None:
    tree, seen = ChainTree(), set[str]()
    for chain in chains:
        fresh = len(set(chain) - seen)
        assert tree.new(chain) == fresh
        assert tree.new(chain) == fresh, "asking changes nothing"
        assert tree.add(chain) == fresh
        seen |= set(chain)
        assert tree.blocks == len(seen)
        assert tree.new(chain) == 0


def test_chains_that_share_nothing_and_none_at_all() -> None:
    tree = ChainTree()
    assert tree.add(("a", "ab")) == 2
    assert tree.new(("b",)) == 1
    assert tree.new(()) == tree.add(()) == 0
