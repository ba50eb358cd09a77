"""Messages as blocks: equal text is equal ids, four characters are a token; and jobs that come again."""

import dataclasses
from typing import Any

from agentcache_workloads.readers.parts.text_blocks import BLOCK, as_blocks, recycled
from agentcache_workloads.readers.trace import Parent, Session, TraceCall


def session(sid: str, *prompts: list[dict[str, Any]]) -> Session:
    calls = tuple(
        TraceCall(i, i - 1 if i else None, 1.0, "tool", 1, 1, "msgs", tuple(p), "tool_use", (), (), None, None, {})
        for i, p in enumerate(prompts)
    )
    return Session(sid, None, None, None, calls, {})


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


SYSTEM = message("s" * (4 * BLOCK * 2))


def test_blocks_are_equal_where_the_text_before_is() -> None:
    a = session("a", [SYSTEM, message("x" * 600)], [SYSTEM, message("x" * 600), message("y" * 600, "assistant")])
    b = session("b", [SYSTEM, message("z" * 600)])
    made_a, made_b = as_blocks([a, b])
    first, second = (call.items for call in made_a.calls)
    assert second[: len(first)] == first
    assert first[:2] == made_b.calls[0].items[:2]
    assert not set(first[2:]) & set(made_b.calls[0].items)
    assert [len(call.items) for call in made_a.calls] == [call.in_tok // BLOCK for call in made_a.calls]
    assert made_a.calls[0].enc == "blocks"


def test_copies_share_what_sessions_share_and_nothing_else() -> None:
    once = list(as_blocks([session(n, [SYSTEM, message(n * 900)]) for n in "abc"]))
    many = list(recycled(once, 7))
    assert len(many) == 9
    assert many[:3] == once
    assert len({s.sid for s in many}) == 9
    blocks = [set(s.calls[0].items) for s in many]
    assert len(set.intersection(*blocks)) == 2
    assert sum(len(b) - 2 for b in blocks) + 2 == len(set().union(*blocks))


def test_copies_start_sub_agents_of_their_own() -> None:
    calls = session("a", [SYSTEM]).calls
    parent = dataclasses.replace(session("a", [SYSTEM]), calls=(dataclasses.replace(calls[0], spawn=("a/1",)),))
    child = dataclasses.replace(session("a/1", [SYSTEM]), parent=Parent("a", 0, 0.0))
    copies = list(recycled(as_blocks([parent, child]), 4))[2:]
    assert [copy.sid for copy in copies] == ["a.1", "a/1.1"]
    assert copies[0].calls[0].spawn == ("a/1.1",) and copies[1].parent == Parent("a.1", 0, 0.0)
