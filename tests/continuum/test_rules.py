"""Continuum's rule against a reference written from the paper, its edges, and the baselines."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import ConfigError
from agentcache_continuum.rules import MAX_TOOLS, Always, Fixed, Oracle, PaperOptions, PaperV6, Preview, Rule
from tests.continuum.reference import Reference

# Binary fractions: sums of them are exact in any order, so the two may be compared to the last bit.
SECONDS = st.integers(0, 4000).map(lambda n: n / 64)


@given(
    durations=st.lists(st.tuples(st.sampled_from(["bash", "edit", "search"]), SECONDS), max_size=60),
    waits=st.lists(SECONDS, max_size=130),
    lengths=st.lists(st.integers(1, 9), max_size=12),
    reload_s=SECONDS,
    k=st.integers(0, 20),
)
def test_the_paper_s_rule_equals_the_reference(
    durations: list[tuple[str, float]], waits: list[float], lengths: list[int], reload_s: float, k: int
) -> None:
    ours, reference = PaperV6(PaperOptions(k=k)), Reference(k)
    for tool, pause_s in durations:
        ours.returned(tool, pause_s)
    for seconds in waits:
        ours.waited(seconds)
    for turns in lengths:
        ours.ended(turns)
    reference.samples, reference.waits, reference.lengths = durations, waits, lengths
    assert ours.eta == pytest.approx(reference.eta(), abs=1e-12)
    ours._eta = reference.eta()  # the last bit of eta depends on the order of its sums
    for tool in ("bash", "edit", "never seen"):
        assert ours.keep_s(tool, reload_s) == reference.ttl(tool, reload_s)


def learnt(*groups: tuple[str, float, int], k: int = 100) -> PaperV6:
    rule = PaperV6(PaperOptions(k=k))
    for tool, pause_s, count in groups:
        for _ in range(count):
            rule.returned(tool, pause_s)
    return rule


def test_hundred_samples_are_too_few_and_one_more_is_enough() -> None:
    assert learnt(("bash", 3.0, 100)).keep_s("bash", 20.0) == math.log(20.0)
    assert learnt(("bash", 3.0, 101)).keep_s("bash", 20.0) == 3.0
    # Of a tool with too few, all tools together speak.
    mixed = [("bash", 3.0, 101), ("edit", 1.0, 100)]
    assert learnt(*mixed).keep_s("edit", 20.0) == 3.0
    assert learnt(*mixed, ("edit", 1.0, 1)).keep_s("edit", 20.0) == 1.0


def test_the_cold_start_is_the_optimum_for_exponential_durations() -> None:
    for benefit_s in (0.5, 1.0, 2.0, 7.4, 300.0):
        grid = [n / 1000 for n in range(10_000)]
        best = max(grid, key=lambda tau: (1 - math.exp(-tau)) * benefit_s - tau)
        assert PaperV6().keep_s("bash", benefit_s) == pytest.approx(best, abs=1e-3)
    assert PaperV6(PaperOptions(cold_s=2.0)).keep_s("bash", 0.1) == 2.0


def test_eta_is_one_for_equal_lengths_none_for_geometric_ones_and_may_be_negative() -> None:
    def eta(lengths: list[int], **options: float) -> float:
        rule = PaperV6(PaperOptions(programs=len(lengths) or 1, **options))  # type: ignore[arg-type]
        for turns in lengths:
            rule.ended(turns)
        return rule.eta

    assert eta([]) == eta([7, 7, 7]) == 1.0
    assert eta([7], first_eta=0.0) == 0.0
    draw = random.Random(0)
    geometric = [1 + int(math.log(1 - draw.random()) / math.log(0.9)) for _ in range(5000)]
    assert abs(eta(geometric)) < 0.05
    # Some long among many short: who has come far has far to go.
    assert eta([2] * 50 + [200] * 2) < 0.6
    assert eta([2] * 400 + [40]) != eta([2] * 400 + [40], count_last=True)


def test_a_negative_eta_lowers_the_benefit() -> None:
    rule = PaperV6()
    rule._eta = -0.5
    rule.waited(4.0)
    assert rule.benefit_s(3.0) == 1.0


def test_ties_go_to_the_shorter_and_nothing_pays_nothing() -> None:
    # F(1) = 1/2: 0.5 * 4 - 1 = 1; F(3) = 1: 4 - 3 = 1.
    assert learnt(("bash", 1.0, 1), ("bash", 3.0, 1), k=0).keep_s("bash", 4.0) == 1.0
    assert learnt(("bash", 5.0, 9), k=0).keep_s("bash", 5.0) == 0.0


def test_the_baselines() -> None:
    assert Rule().keep_s("bash", 9.0) == 0.0
    assert Always().keep_s("bash", 0.0) == math.inf
    assert Fixed(2.5).keep_s("bash", 0.0) == 2.5
    preview = Preview()
    assert (preview.keep_s("bash", 0.0), preview.keep_s(None, 9.0)) == (2.0, 0.0)
    preview.returned("bash", 3.0)
    assert (preview.keep_s("bash", 9.0), preview.keep_s("edit", 9.0)) == (0.0, 2.0)
    preview.returned("bash", 1.0)
    assert preview.keep_s("bash", 9.0) == 2.0, "the mean is 2.0 s"
    oracle = Oracle()
    assert [oracle.keep_s("bash", 5.0, pause) for pause in (4.9, 5.0, None)] == [4.9, 0.0, 0.0]


def test_what_is_remembered_is_bounded() -> None:
    rule = PaperV6(PaperOptions(k=0))
    for number in range(20_000):
        rule.returned(f"tool {number}", 1.0)
        rule.ended(number % 7)
        rule.waited(1.0)
    assert len(rule.durations.of) <= MAX_TOOLS + 1
    assert (len(rule.durations.all), len(rule.waits), len(rule.programs)) == (4096, 100, 256)


def test_nonsense_is_refused() -> None:
    for make in (
        lambda: PaperV6(PaperOptions(k=-1)),
        lambda: PaperV6(PaperOptions(waits=0)),
        lambda: PaperV6(PaperOptions(cold_s=-2.0)),
        lambda: Fixed(-1.0),
        lambda: Preview(math.nan),
    ):
        with pytest.raises(ConfigError, match="out of range"):
            make()
