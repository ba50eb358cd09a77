"""The Gamma generator: the statistics it promises, the same trace for a seed, and what our reader says of it."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import msgspec
import pytest

from agentcache_workloads.generators.gamma import BETWEEN, LENGTHS, Gamma, generate
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.trace import Session
from agentcache_workloads.readers.writers.agentkv_writer import write_trace


def sessions(spec: Gamma, seed: int = 1) -> list[Session]:
    return list(generate(spec, seed)[1])


@pytest.mark.parametrize("cv", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("dispersion", ["low", "high"])
def test_pauses_have_the_mean_and_cv_asked_for(dispersion: str, cv: float) -> None:
    made = sessions(Gamma(dispersion=dispersion, pause_cv=cv, requests=20_000))
    pauses = [call.delay_s for session in made for call in session.calls if call.after is not None]
    assert fmean(pauses) == pytest.approx(BETWEEN[dispersion] / 0.04, rel=0.06)
    assert stdev(pauses) / fmean(pauses) == pytest.approx(cv, rel=0.06)


def test_arrivals_and_lengths_are_the_published_ones() -> None:
    for data, (prompt, output, growth) in LENGTHS.items():
        made = sessions(Gamma(data=data, requests=20_000))
        gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(made)]
        calls = [call for session in made for call in session.calls]
        assert stdev(gaps) / fmean(gaps) == pytest.approx(0.25, rel=0.06)
        assert len(calls) / made[-1].arrival_s == pytest.approx(0.04, rel=0.03)
        assert fmean(call.in_tok for call in calls) == pytest.approx(prompt, rel=0.02)
        assert {call.out_tok for call in calls} == {output}
        first = made[0].calls
        assert {b.in_tok - a.in_tok for a, b in pairwise(first)} == {growth}


def test_a_prompt_extends_the_one_before_and_shares_nothing_with_other_chats() -> None:
    made = sessions(Gamma(requests=60))
    for session in made:
        for a, b in pairwise(session.calls):
            assert b.items[: len(a.items)] == a.items
            assert len(b.items) == b.in_tok // 64
    last = [set(session.calls[-1].items) for session in made]
    assert sum(map(len, last)) == len(set().union(*last))


def test_a_seed_is_a_trace_and_the_reader_accepts_it(tmp_path: Path) -> None:
    spec = Gamma(requests=100, pause_cv=2.0)
    assert sessions(spec) == sessions(spec)
    assert sessions(spec) != sessions(spec, seed=2)
    meta, made = generate(spec, 1)
    assert isinstance(made, Iterator)
    write_trace(tmp_path / "gamma.jsonl.zst", meta, made)
    head, read = read_trace(tmp_path / "gamma.jsonl.zst")
    assert (head.n_calls, head.record["source"]["pause_cv"]) == (100, 2.0)
    plain = [[(c.turn, c.delay_s, c.in_tok, c.items) for c in s.calls] for s in read]
    assert plain == [[(c.turn, c.delay_s, c.in_tok, c.items) for c in s.calls] for s in sessions(spec)]


@pytest.mark.parametrize("field", [{"pause_cv": 0}, {"qps": -1}, {"requests": 0}, {"data": "novel"}])
def test_nonsense_is_refused(field: dict) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(field, Gamma)


def test_a_shorter_trace_is_the_start_of_a_longer_one() -> None:
    short, long = sessions(Gamma(requests=50)), sessions(Gamma(requests=500))
    assert short[:-1] == long[: len(short) - 1]
