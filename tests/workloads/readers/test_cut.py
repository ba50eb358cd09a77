from pathlib import Path

import pytest

from agentcache.errors import InputError
from agentcache_workloads.readers.cut import cut_trace, sha_order
from agentcache_workloads.readers.formats.agentkv import read_trace


def test_a_cut_keeps_the_structure(demo_trace: Path) -> None:
    meta, cut = cut_trace(demo_trace, sessions=10, max_calls=5, min_calls=3, always=("cc-0226",), note="for a test")
    source = {session.sid: session for session in read_trace(demo_trace)[1]}
    roots = [session.sid for session in cut if session.parent is None]
    assert len(roots) == 10
    assert "cc-0226" in roots
    assert {s.sid for s in cut if s.parent} >= {"cc-0226.sub0", "cc-0226.sub1"}
    assert (meta.n_sessions, meta.n_calls) == (len(cut), sum(len(s.calls) for s in cut))
    assert meta.record["cut"] == "for a test"
    renamed: dict[int, int] = {}
    for session in cut:
        before = source[session.sid].calls
        assert len(session.calls) == min(5, len(before))
        for old, new in zip(before, session.calls, strict=False):
            for a, b in zip(old.items or (), new.items or (), strict=True):
                assert renamed.setdefault(a, b) == b
    assert sorted(renamed.values()) == list(range(1, len(renamed) + 1))  # small, and a bijection


def test_sessions_are_taken_in_sha_order(demo_trace: Path) -> None:
    roots = [s.sid for s in read_trace(demo_trace)[1] if s.parent is None]
    expected = set(sorted(roots, key=sha_order)[:7])
    _, cut = cut_trace(demo_trace, sessions=7, max_calls=2)
    assert {s.sid for s in cut if s.parent is None} == expected


def test_sub_agents_of_calls_that_were_cut_off_go_with_them(demo_trace: Path) -> None:
    _, cut = cut_trace(demo_trace, sessions=1, max_calls=1, always=("cc-0226",))
    assert [session.sid for session in cut] == ["cc-0226", "cc-0226.sub0"]
    assert cut[0].calls[0].spawn == ("cc-0226.sub0",)


def test_too_few_sessions_are_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="6 sessions of at least 2 calls, expected 7"):
        cut_trace(tiny, sessions=7, max_calls=3, min_calls=2)
    with pytest.raises(InputError, match="no root session cc-9999"):
        cut_trace(tiny, sessions=1, max_calls=3, always=("cc-9999",))
