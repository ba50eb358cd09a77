from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import InputError
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.writers.agentkv_writer import common_prefix, write_trace


@pytest.mark.parametrize("name", ["copy.jsonl", "copy.jsonl.zst"])
def test_a_trace_survives_being_written(tiny: Path, tmp_path: Path, name: str) -> None:
    meta, sessions = read_trace(tiny)
    kept = list(sessions)
    write_trace(tmp_path / name, meta, kept)
    meta_again, again = read_trace(tmp_path / name)
    assert (meta_again.n_sessions, meta_again.n_calls) == (meta.n_sessions, meta.n_calls)
    for before, after in zip(kept, again, strict=True):
        assert (before.sid, before.parent) == (after.sid, after.parent)
        for a, b in zip(before.calls, after.calls, strict=True):
            assert (a.items, a.spawn, a.delay_s, a.in_tok) == (b.items, b.spawn, b.delay_s, b.in_tok)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_left_where_nothing_can_be_written(tiny: Path, tmp_path: Path) -> None:
    meta, sessions = read_trace(tiny)
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(tmp_path / "none" / "t.jsonl", meta, sessions)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]
