"""What holds for every generator, and what each one is named for."""

from pathlib import Path

import msgspec
import pytest

from agentcache.errors import ConfigError
from agentcache_workloads.generators.registry import GENERATORS, generate
from agentcache_workloads.readers.open import open_trace
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.readers.writers.agentkv_writer import write_trace
from agentcache_workloads.replay.jobs.jobs import build_job

SMALL = {
    "longctx": ["requests=20"],
    "bfcl": ["jobs=5"],
    "infercept": ["jobs=12"],
    "workflow": ["jobs=3", "agents=4", "rounds=2", "fixed=256"],
    "tree": ["jobs=2", "depth=2", "fan_out=3"],
}


def made(name: str, *settings: str, seed: int = 1) -> tuple[Meta, list[Session]]:
    meta, sessions = generate(name, settings or SMALL[name], seed)
    return meta, list(sessions)


@pytest.mark.parametrize("name", GENERATORS)
def test_it_keeps_its_promises_and_can_be_replayed(name: str) -> None:
    meta, sessions = made(name)
    assert (meta.n_sessions, meta.n_calls) == (len(sessions), sum(len(s.calls) for s in sessions))
    known = {session.sid: session for session in sessions}
    assert len(known) == len(sessions)
    assert meta.block_size
    for session in sessions:
        for call in session.calls:
            assert len(call.items or ()) == call.in_tok // meta.block_size
            assert call.delay_s is not None
            assert call.out_tok > 0
    turns = sum(len(build_job(s, known).turns) for s in sessions if s.parent is None)
    assert turns == meta.n_calls


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_is_a_trace(name: str) -> None:
    assert made(name)[1] == made(name)[1]
    assert name == "workflow" or made(name)[1] != made(name, seed=2)[1]  # that one is all choice by default


@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    meta, sessions = made(name)
    write_trace(tmp_path / "t.jsonl", meta, sessions)
    for a, b in zip(sessions, open_trace(tmp_path / "t.jsonl")[1], strict=True):
        assert (a.sid, a.parent, a.arrival_s) == (b.sid, b.parent, b.arrival_s)
        assert [(c.items, c.delay_s, c.spawn) for c in a.calls] == [(c.items, c.delay_s, c.spawn) for c in b.calls]


def test_workflows_share_their_fixed_parts_and_nothing_else() -> None:
    _, sessions = made("workflow")
    fixed = 256 // 16
    one, two = (session.calls for session in sessions[:2])
    assert [call.items[:fixed] for call in one] == [call.items[:fixed] for call in two]  # type: ignore[index]
    assert one[0].items[:fixed] == one[4].items[:fixed]  # type: ignore[index]  # the next round
    own = [set((call.items or ())[fixed:]) for session in sessions for call in session.calls]
    assert sum(map(len, own)) == len(set().union(*own))


def test_a_tree_goes_on_from_one_of_its_branches() -> None:
    _, sessions = made("tree")
    known = {session.sid: session for session in sessions}
    root = sessions[0]
    assert [len(call.spawn) for call in root.calls] == [3, 3, 0]
    for call, later in zip(root.calls, root.calls[1:], strict=False):
        branches = [known[sid] for sid in call.spawn]
        assert any(branch.calls[-1].items == later.items for branch in branches)
        assert all(branch.calls[0].items[: len(call.items or ())] == call.items for branch in branches)  # type: ignore[index]
        assert later.delay_s == max(branch.span_s for branch in branches)


def test_interceptions_have_their_kinds() -> None:
    meta, sessions = made("infercept", "kind=ve", "jobs=60")
    assert 20 < meta.n_calls / meta.n_sessions < 38
    assert {session.record["agent"] for session in made("infercept", "jobs=60")[1]} > {"math", "chatbot"}
    assert [s.arrival_s for s in sessions] == sorted(s.arrival_s for s in sessions)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("x", []), ("tree", ["jobs"]), ("tree", ["jobs=0"]), ("tree", ["color=1"]), ("tree", ["jobs=1", "jobs=2"])],
)
def test_settings_are_checked(name: str, settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="nothing was written"):
        generate(name, settings, 1)


def test_every_setting_has_a_default() -> None:
    for kind, _ in GENERATORS.values():
        assert isinstance(kind(), msgspec.Struct)
