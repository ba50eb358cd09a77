"""Which conversation a prompt goes on from, where nobody says it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.service.routing.conversations import Lineage, chained
from tests.service.agents import CLIENTS, tree


def chat(*contents: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], **more}


def test_a_conversation_is_followed_through_its_turns() -> None:
    lineage = Lineage()
    first = lineage.follow(None, chat("a"), None)
    assert lineage.follow(None, chat("a", "b", "c"), None) == first
    assert lineage.follow(None, chat("a", "b", "c", "d"), None) == first


def test_a_shared_beginning_is_no_conversation() -> None:
    lineage = Lineage()
    first = lineage.follow(None, chat("system", "one"), None)
    assert lineage.follow(None, chat("system", "two"), None) != first


def test_what_is_known_is_not_inferred() -> None:
    lineage = Lineage()
    lineage.follow(None, chat("a"), None)
    assert lineage.follow(None, chat("a", "b"), "job") == "job"
    assert lineage.follow(None, chat("a", "b", "c"), None) == "job"


@pytest.mark.parametrize(
    "other", [("tenant", chat("a", "b")), (None, chat("a", "b", model="m")), (None, chat("a", "b", tools=[{"x": 1}]))]
)
def test_tenants_models_and_tools_keep_apart(other: tuple[str | None, dict[str, Any]]) -> None:
    lineage = Lineage()
    first = lineage.follow(None, chat("a"), None)
    assert lineage.follow(*other, None) != first


def test_an_answer_comes_back_with_less_than_it_had() -> None:
    lineage = Lineage()
    given_back = {"role": "assistant", "content": "x"}
    first = lineage.follow(None, {"messages": [{**given_back, "reasoning": None, "refusal": None}]}, None)
    assert lineage.follow(None, {"messages": [given_back, {"role": "user", "content": "y"}]}, None) == first


@pytest.mark.parametrize("prompt", ["abcdefghij" * 70, list(range(100))])
def test_prompts_are_followed_by_pieces(prompt: Any) -> None:
    lineage = Lineage()
    first = lineage.follow(None, {"prompt": prompt}, None)
    longer = prompt + prompt
    assert lineage.follow(None, {"prompt": longer}, None) == first
    assert lineage.follow(None, {"prompt": longer[1:]}, None) != first


@given(st.lists(st.text(max_size=3), max_size=6), st.lists(st.text(max_size=3), max_size=6))
def test_digests_agree_exactly_as_far_as_the_messages_do(one: list[str], two: list[str]) -> None:
    a, b = list(chained(None, None, chat(*one))), list(chained(None, None, chat(*two)))
    common = next((n for n, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), min(len(one), len(two)))
    assert len(a) == len(one) and a[:common] == b[:common]
    assert not set(a[common:]) & set(b[common:])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": 10**30, "messages": [{"content": 10**30}]},
        {"messages": None},
        {"prompt": ""},
        {"messages": [1, None]},
        {"input": "text"},
    ],
)
def test_anything_has_some_lineage(body: dict[str, Any]) -> None:
    assert Lineage().follow(None, body, None)


def test_short_prompts_are_not_taken_for_each_other() -> None:
    lineage = Lineage()
    assert lineage.follow(None, {"prompt": "a"}, None) != lineage.follow(None, {"prompt": "a"}, None)
    assert len(lineage) == 0


def test_the_first_conversation_of_a_tree_bears_its_name_and_others_their_own() -> None:
    lineage = Lineage()
    assert lineage.follow(None, chat("a"), None, "tree") == "tree"
    other = lineage.follow(None, chat("b"), None, "tree")
    assert other.startswith("tree#")
    assert lineage.follow(None, chat("b", "c", "d"), None, "tree") == other
    assert lineage.follow(None, chat("a", "b", "c"), None, "tree") == "tree"
    assert lineage.follow(None, chat("b", "c"), None, "wood") == "wood"  # a tree's prompts are its own
    assert lineage.follow(None, {"prompt": "short"}, None, "tree") == "tree"
    lineage.check()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("named", [True, False])
def test_agents_of_a_tree_are_told_apart_and_known_again(client: Any, named: bool) -> None:
    """By what the model sees: neither a bill nor a mark for caches makes another conversation of one."""
    lineage = Lineage()
    names: dict[str, set[str]] = {}
    for seed in range(3):
        for asked in tree(client, f"{seed}", seed):
            body = {**asked.body, "seed": seed, "model": f"m{seed}"}
            name = lineage.follow(None, body, None, f"tree-{seed}" if named else None)
            names.setdefault(f"{seed} {asked.agent}", set()).add(name)
    assert len(names) == 15 and {len(found) for found in names.values()} == {1}
    assert len(set.union(*names.values())) == 15


@given(
    st.lists(
        st.tuples(
            st.sampled_from((None, "red")),
            st.lists(st.sampled_from("ab"), max_size=4),
            st.sampled_from((None, "known")),
            st.sampled_from((None, "oak", "elm")),
        ),
        max_size=30,
    )
)
def test_whatever_is_asked_memory_is_bounded_and_trees_keep_apart(
    asked: list[tuple[str | None, list[str], str | None, str | None]],
) -> None:
    lineage = Lineage(capacity=4)
    for tenant, contents, known, wood in asked:
        name = lineage.follow(tenant, chat(*contents), known, wood)
        lineage.check()
        assert name == known or known is None
        assert known or name == "known" or name.partition("#")[0] == wood or (wood is None and name[:8] == "lineage-")
        if contents:  # the same prompt again is the same conversation
            assert lineage.follow(tenant, chat(*contents), None, wood) == name


def test_memory_is_bounded() -> None:
    lineage = Lineage(capacity=3)
    first = lineage.follow(None, chat("0"), None)
    for number in range(1, 10):
        lineage.follow(None, chat(str(number)), None)
        lineage.follow(None, chat(str(number)), None, f"tree-{number}")
        lineage.check()
    assert len(lineage) == 3
    assert lineage.follow(None, chat("0", "1"), None) != first
