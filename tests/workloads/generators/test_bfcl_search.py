"""The BFCL-like generator: the statistics it promises, and a trace that our reader takes."""

from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import msgspec
import pytest

from agentcache_workloads.generators.bfcl_search import BLOCK, SHARED, BfclSearch, generate
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.trace import Session
from agentcache_workloads.readers.writers.agentkv_writer import write_trace


def sessions(spec: BfclSearch, seed: int = 1) -> list[Session]:
    return list(generate(spec, seed)[1])


@pytest.mark.parametrize("cv", [0.5, 2.0])
def test_turns_lengths_and_tools_are_the_published_ones(cv: float) -> None:
    made = sessions(BfclSearch(jobs=3000, tool_cv=cv))
    assert fmean(len(s.calls) for s in made) == pytest.approx(6.3, rel=0.02)
    assert fmean(s.calls[-1].in_tok + s.calls[-1].out_tok for s in made) == pytest.approx(37_200, rel=0.02)
    pauses = [call.delay_s for s in made for call in s.calls[1:]]
    assert fmean(pauses) == pytest.approx(1.92, rel=0.05)
    assert stdev(pauses) / fmean(pauses) == pytest.approx(cv, rel=0.06)


def test_prompts_grow_and_only_the_instructions_are_shared() -> None:
    made = sessions(BfclSearch(jobs=40))
    for session in made:
        for a, b in pairwise(session.calls):
            assert b.items[: len(a.items)] == a.items
            assert len(b.items) == b.in_tok // BLOCK
        assert [call.stop for call in session.calls[:-1]] == ["tool_use"] * (len(session.calls) - 1)
        assert session.calls[-1].tools == ()
    blocks = [set(s.calls[-1].items) for s in made]
    assert len(set.intersection(*blocks)) == SHARED // BLOCK
    assert sum(map(len, blocks)) - 39 * SHARED // BLOCK == len(set().union(*blocks))


def test_a_seed_is_a_trace_and_the_reader_accepts_it(tmp_path: Path) -> None:
    spec = BfclSearch(jobs=30)
    assert sessions(spec) == sessions(spec) != sessions(spec, seed=2)
    meta, made = generate(spec, 1)
    write_trace(tmp_path / "bfcl.jsonl", meta, made)
    head, read = read_trace(tmp_path / "bfcl.jsonl")
    assert head.n_sessions == 30
    plain = [[(c.delay_s, c.in_tok, c.items, c.tools) for c in s.calls] for s in read]
    assert plain == [[(c.delay_s, c.in_tok, c.items, c.tools) for c in s.calls] for s in sessions(spec)]


@pytest.mark.parametrize("field", [{"jobs": 0}, {"scale": 0.01}, {"tool_cv": -1}])
def test_nonsense_is_refused(field: dict) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(field, BfclSearch)
