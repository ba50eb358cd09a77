"""The tree of owners, against its plain definition: the contexts whose chains contain a key."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentcache.model import LIVELIEST, NOBODY, Context, Key, Owners, Standing, Tally
from agentcache.residency.tree import OwnersTree
from tests.residency.test_contexts import chain

NAMES = st.sampled_from("12345")
TEXTS = st.text("ab", max_size=7)


class AgainstTheDefinition(RuleBasedStateMachine):
    """Chains at random; after each step every key has the owners, the standing and the sums that are counted anew."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = OwnersTree()
        self.contexts = {name: Context(name, "") for name in "12345"}
        self.tally = Tally()
        self.numbers = dict.fromkeys(self.contexts, 0)
        self.owners: dict[Key, Owners] = {}  # as they were before the step
        self.moved: set[Key] = set()  # keys of the chains before and after it

    @rule(name=NAMES, text=TEXTS)
    def move(self, name: str, text: str) -> None:
        self.moved.update(self.contexts[name].chain, chain(text))
        self.tree.move(self.contexts[name], chain(text))

    @rule(name=NAMES, more=TEXTS)
    def grow(self, name: str, more: str) -> None:
        self.move(name, "".join(map(str, self.contexts[name].chain[-1:])) + more)

    @rule(name=NAMES, standing=st.sampled_from(Standing))
    def stand(self, name: str, standing: Standing) -> None:
        self.tree.stand(self.contexts[name], standing)

    @rule(name=NAMES, number=st.integers(0, 3))
    def put(self, name: str, number: int) -> None:
        self.tally.put(self.contexts[name], number)
        self.numbers[name] = number

    @invariant()
    def is_as_defined(self) -> None:
        self.tree.check()
        expected: dict[Key, set[str]] = {}
        for name, context in self.contexts.items():
            for key in context.chain:
                expected.setdefault(key, set()).add(name)
        assert {key: {context.id for context in owners} for key, owners in self.tree.at.items()} == expected
        for key, owners in self.tree.at.items():
            names = expected[key]
            assert all((context in owners) == (name in names) for name, context in self.contexts.items())
            assert owners.standing is min((self.contexts[name].standing for name in names), key=LIVELIEST.index)
            assert self.tally.sum(owners) == sum(self.numbers[name] for name in names)
            assert {context.id for context in self.tally.among(owners)} == {n for n in names if self.numbers[n]}
        assert all(self.tree.at[key] is owners for key, owners in self.owners.items() if key not in self.moved)
        self.owners = dict(self.tree.at)
        self.moved.clear()


AgainstTheDefinition.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestAgainstTheDefinition = AgainstTheDefinition.TestCase


def test_the_blocks_of_a_run_have_their_owners_among_them() -> None:
    tree, one, other = OwnersTree(), Context("1", ""), Context("2", "")
    tree.move(one, chain("ssab"))
    tree.move(other, chain("ssxy"))
    assert len(set(tree.at.values())) == 3
    assert tree.at["s"] is tree.at["ss"] == {one, other}
    assert [node.keys for node in tree.at["ssxy"].path()] == [("ssx", "ssxy"), ("s", "ss")]
    tree.move(one, ())
    assert tree.at["s"] is tree.at["ssxy"] == {other}
    tree.check()


def test_keys_that_contradict_what_was_shown_are_not_believed() -> None:
    tree, one, other = OwnersTree(), Context("1", ""), Context("2", "")
    tree.move(one, (1, 2, 3))
    for keys, believed in (((4, 2), (4,)), ((5, 6, 5), (5, 6)), ((7, 2, 3), (7,)), ((9, 3), ())):
        tree.move(other, keys)
        tree.check()
        assert other.chain == believed[: len(other.chain)]
    tree.move(other, ())
    tree.move(one, ())
    assert not tree.at


def test_nobody_is_empty_and_unknown() -> None:
    assert not NOBODY and NOBODY.standing is Standing.UNKNOWN
