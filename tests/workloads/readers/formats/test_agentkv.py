import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import InputError
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.trace import Parent

META = {
    "kind": "meta",
    "schema": "agentkv-trace/1",
    "name": "made",
    "split": "test",
    "n_sessions": 1,
    "n_calls": 3,
    "block_size": 4,
}
SESSION = {"kind": "session", "sid": "s", "parent": None, "n_calls": 3}
CALLS = [
    {"in_tok": 9, "after": None, "delay_s": 0.0, "prompt": {"enc": "blocks", "ref": None, "keep": 0, "new": [1, 2]}},
    {"in_tok": 13, "after": 0, "delay_s": 2.5, "prompt": {"enc": "blocks", "ref": 0, "keep": 2, "new": [3]}},
    {"in_tok": 8, "after": 1, "delay_s": None, "prompt": {"enc": "blocks", "ref": 1, "keep": 1, "new": [7]}},
]
RECORDS: list[dict[str, Any]] = [
    META,
    SESSION,
    *({"kind": "call", "sid": "s", "turn": i, "out_tok": 5, **call} for i, call in enumerate(CALLS)),
]


def test_prompts_are_expanded_and_fields_read(write_lines: Callable[..., Path]) -> None:
    records = copy.deepcopy(RECORDS)
    records[3] |= {"stop": "tool_use", "tools": [{"name": "bash"}], "spawn": ["s.0"], "rec": {"t_s": 1, "api_s": 2.0}}
    meta, sessions = read_trace(write_lines(*records))
    [session] = list(sessions)
    assert (meta.name, meta.block_size, meta.hash_scope, meta.tail_hashed) == ("made", 4, "trace", False)
    assert [call.items for call in session.calls] == [(1, 2), (1, 2, 3), (1, 7)]
    assert [call.delay_s for call in session.calls] == [0.0, 2.5, None]
    call = session.calls[1]
    assert (call.after, call.stop, call.tools, call.spawn, call.t_s, call.api_s) == (
        0,
        "tool_use",
        ("bash",),
        ("s.0",),
        1,
        2.0,
    )


def test_other_encodings_are_expanded_too(write_lines: Callable[..., Path]) -> None:
    records = copy.deepcopy(RECORDS)
    records[2]["prompt"] = {"enc": "chars", "ref": None, "keep": 0, "new": "hello "}
    records[3]["prompt"] = {"enc": "chars", "ref": 0, "keep": 5, "new": "!"}
    records[4]["prompt"] = {"enc": "len", "prefix": 3, "new": 5}
    [session] = list(read_trace(write_lines(*records))[1])
    assert [call.items for call in session.calls] == ["hello ", "hello!", None]


def test_the_carried_traces_read(tiny: Path, demo_trace: Path) -> None:
    meta, sessions = read_trace(tiny)
    read = list(sessions)
    assert (len(read), sum(len(s.calls) for s in read)) == (meta.n_sessions, meta.n_calls) == (8, 64)
    by_sid = {session.sid: session for session in read}
    assert by_sid["cc-0226.sub0"].parent == Parent("cc-0226", 0, 131.25)
    roots = [s for s in read_trace(demo_trace)[1] if s.parent is None]
    assert len(roots) >= 48
    assert all(len(s.calls) >= 12 for s in roots)


def test_sessions_are_read_one_at_a_time(write_lines: Callable[..., Path]) -> None:
    """What is wrong further down is not met before the sessions above it have been given out."""
    path = write_lines(*RECORDS, {**SESSION, "sid": "t"}, "broken")
    sessions = read_trace(path)[1]
    assert next(sessions).sid == "s"
    with pytest.raises(InputError, match="line 7"):
        next(sessions)


def change(line: int, **fields: Any) -> Callable[[list[Any]], None]:
    def apply(records: list[Any]) -> None:
        records[line - 1] |= fields

    return apply


def drop(line: int, field: str) -> Callable[[list[Any]], None]:
    def apply(records: list[Any]) -> None:
        del records[line - 1][field]

    return apply


def put(line: int, text: str) -> Callable[[list[Any]], None]:
    def apply(records: list[Any]) -> None:
        records[line - 1] = text

    return apply


@pytest.mark.parametrize(
    ("spoil", "line", "says"),
    [
        (put(4, '{"kind": "call", '), 4, "broken JSON"),
        (put(4, "[1, 2]"), 4, "a JSON list"),
        (change(1, schema="agentkv-trace/9"), 1, "schema is 'agentkv-trace/9', expected 'agentkv-trace/1'"),
        (put(1, '{"schema": "agentkv-trace/1", "kind": "call"}'), 1, "expected 'meta'"),
        (change(1, hash_scope="planet"), 1, "hash_scope is 'planet'"),
        (change(1, block_size=0), 1, "block_size is 0"),
        (change(1, n_calls=4), 5, "ends after 1 sessions and 3 calls"),
        (change(2, n_calls=2), 5, "session 's' ends after 3 calls, expected n_calls = 2"),
        (change(2, parent=7), 5, "parent of session 's' is 7"),
        (change(3, delay_s=-1.0), 3, "delay_s is -1.0, expected a number >= 0"),
        (change(3, delay_s=float("nan")), 3, "delay_s is nan"),
        (change(4, delay_s="2"), 4, "delay_s is '2'"),
        (change(4, after=7), 4, "after is 7 in turn 1, expected null or an earlier turn"),
        (change(4, after=True), 4, "after is True"),
        (change(4, turn=5), 4, "turn is 5, expected 1"),
        (change(4, sid="other"), 4, "a call of session 'other'"),
        (change(4, in_tok=1.5), 4, "in_tok is 1.5"),
        (change(4, out_tok=True), 4, "out_tok is True"),
        (drop(4, "out_tok"), 4, "no field 'out_tok'"),
        (drop(4, "prompt"), 4, "no field 'prompt'"),
        (change(4, kind="tool"), 4, "kind is 'tool'"),
        (change(4, prompt={"enc": "runes", "ref": None, "keep": 0, "new": []}), 4, "prompt.enc is 'runes'"),
        (change(4, prompt={"enc": "blocks", "ref": 5, "keep": 0, "new": []}), 4, "prompt.ref is 5"),
        (change(4, prompt={"enc": "blocks", "ref": 0, "keep": 3, "new": []}), 4, "prompt.keep is 3, expected at most"),
        (change(4, prompt={"enc": "blocks", "ref": 0, "keep": 2, "new": ["x"]}), 4, "wrong type"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    write_lines: Callable[..., Path], spoil: Callable[[list[Any]], None], line: int, says: str
) -> None:
    records: list[Any] = copy.deepcopy(RECORDS)
    spoil(records)
    path = write_lines(*records)
    with pytest.raises(InputError) as error:
        list(read_trace(path)[1])
    assert f"{path}, line {line}: " in str(error.value)
    assert says in str(error.value)


def test_a_session_that_stands_twice(write_lines: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="stands here twice"):
        list(read_trace(write_lines(*RECORDS, SESSION))[1])


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(InputError, match="the file is empty"):
        read_trace(path)
