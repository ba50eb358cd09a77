"""The trees of chains: they count what a plain set of keys counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcache.policy.admission.chains import ChainTree, CountedChains


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


class CountedChainsMachine(RuleBasedStateMachine):
    """Against the plain definition: the blocks of all chains that are in, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = CountedChains()
        self.chains: list[tuple[str, ...]] = []

    @rule(letters=st.text("ab", max_size=9), again=st.booleans())
    def add(self, letters: str, again: bool) -> None:
        chain = tuple(letters[:end] for end in range(1, len(letters) + 1))  # a key commits to all before it
        if again and self.chains:
            chain = self.chains[-1]
        self.tree.add(chain)
        self.chains.append(chain)

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.tree.remove(self.chains.pop(data.draw(st.integers(0, len(self.chains) - 1))))

    @invariant()
    def blocks_count_once(self) -> None:
        assert self.tree.blocks == len({key for chain in self.chains for key in chain})

    @invariant()
    def runs_are_no_more_than_it_takes(self) -> None:
        """Runs end where chains do or part: there are fewer than two a chain."""
        runs, rest = 0, [self.tree._roots]
        while rest:
            for run in rest.pop().values():
                runs += 1
                rest.append(run.after)
        assert runs <= 2 * len(self.chains)


TestCountedChains = CountedChainsMachine.TestCase


def test_a_chain_that_is_not_there_cannot_go() -> None:
    with pytest.raises(KeyError):
        CountedChains().remove(("a",))
