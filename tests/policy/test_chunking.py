"""The chunk of a step: never below its least, the largest that keeps the target, all of the budget without decodes."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.policy.chunking import Chunking, Decodes, Gap, parse_chunking

PROFILE = CostProfile(c_lin=1e-4, c_att=3e-9, c0=0.01, c_seg=0.002, c_load=1e-7, c_dec=5e-4, c_kv=4e-8)
BLOCK = 16
COST = CostModel(PROFILE, BLOCK)
FLOORED = CostModel(replace(PROFILE, floor=0.03), BLOCK)


@st.composite
def gap_lists(draw: st.DrawFn, most: int = 5) -> list[Gap]:
    """Disjoint gaps in order, on block boundaries but for the end of the prompt."""
    edges = sorted(draw(st.sets(st.integers(0, 120), min_size=2, max_size=2 * most)))
    edges = edges[: len(edges) // 2 * 2]
    gaps = [(a * BLOCK, b * BLOCK) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    gaps[-1] = (gaps[-1][0], gaps[-1][1] + draw(st.integers(0, BLOCK - 1)))
    return gaps


def first(gaps: list[Gap], tokens: int) -> list[Gap]:
    """The part of the gaps that a chunk of `tokens` covers."""
    taken = []
    for start, end in gaps:
        if tokens > 0:
            taken.append((start, min(end, start + tokens)))
            tokens -= end - start
    return taken


def seconds(cost: CostModel, gaps: list[Gap], decodes: Decodes, linked: int = 0) -> float:
    between = sum(b[0] - a[1] for a, b in itertools.pairwise(gaps))
    return cost.step_seconds(gaps, decodes.count, decodes.context_tokens, linked + between if gaps else 0)


targets = st.floats(1e-3, 1.0)
leasts = st.integers(1, 512)
budgets = st.integers(0, 4096)
running = st.builds(Decodes, st.integers(1, 64), st.integers(0, 200_000))


@given(st.sampled_from([COST, FLOORED]), gap_lists(), running, targets, leasts, budgets, st.integers(0, 1000))
def test_the_oldest_gets_the_largest_chunk_that_keeps_the_target(
    cost: CostModel, gaps: list[Gap], decodes: Decodes, target: float, least: int, budget: int, linked: int
) -> None:
    linked = min(linked, gaps[0][0])
    step = Chunking("adaptive", tpot_s=target, least=least).step(cost, decodes, budget)
    tokens = step.take(gaps, linked)

    most = min(sum(end - start for start, end in gaps), budget)
    sizes = set(range(0, most + 1, BLOCK)) | {most}
    keeping = [n for n in sizes if seconds(cost, first(gaps, n), decodes, linked) <= target * (1 + 1e-9)]
    best = max(keeping, default=0)
    assert tokens == (best if best >= min(least, most) else min(least, most))
    assert step.seconds == pytest.approx(seconds(cost, first(gaps, tokens), decodes, linked))


@given(st.lists(gap_lists(2), min_size=1, max_size=5), running, targets, leasts, budgets)
def test_each_prefill_gets_its_least_or_nothing_and_the_oldest_never_nothing(
    prefills: list[list[Gap]], decodes: Decodes, target: float, least: int, budget: int
) -> None:
    step = Chunking("adaptive", tpot_s=target, least=least).step(COST, decodes, budget)
    left = budget
    for number, gaps in enumerate(prefills):
        tokens = step.take(gaps)
        most = min(sum(end - start for start, end in gaps), left)
        assert 0 <= tokens <= most
        assert tokens == 0 or tokens >= min(least, most)
        assert tokens > 0 or number > 0 or most == 0
        # Beyond what the oldest was granted whatever the target, nobody breaks it.
        if number and tokens:
            assert step.seconds <= target * (1 + 1e-9)
        left -= tokens
    assert step.left == left >= 0


@given(gap_lists(), running, targets, targets, leasts, budgets, budgets)
def test_more_time_more_budget_or_fewer_decodes_never_give_less(
    gaps: list[Gap], decodes: Decodes, target: float, other: float, least: int, budget: int, more: int
) -> None:
    def tokens(target_s: float, decodes: Decodes, budget: int) -> int:
        return Chunking("adaptive", tpot_s=target_s, least=least).step(COST, decodes, budget).take(gaps)

    low, high = sorted((target, other))
    assert tokens(low, decodes, budget) <= tokens(high, decodes, budget)
    assert tokens(low, decodes, budget) <= tokens(low, decodes, budget + more) or budget < least
    fewer = Decodes(decodes.count - 1, decodes.context_tokens // 2)
    assert tokens(low, decodes, budget) <= tokens(low, fewer, budget)


@given(gap_lists(), st.sampled_from(["adaptive:tpot=1ms", "adaptive:tpot=x1.01", "paper", "off"]), budgets)
def test_without_decodes_the_whole_budget_is_used(gaps: list[Gap], spec: str, budget: int) -> None:
    step = parse_chunking(spec).step(COST, Decodes(), budget)
    assert step.take(gaps) == min(sum(end - start for start, end in gaps), budget)


@given(gap_lists(), budgets, st.integers(0, 40), st.integers(1, 4096))
def test_the_other_rules(gaps: list[Gap], budget: int, decodes: int, size: int) -> None:
    beside = Decodes(decodes, 1000 * decodes)
    wanted = min(sum(end - start for start, end in gaps), budget)
    assert parse_chunking("off").step(COST, beside, budget).take(gaps) == wanted
    assert parse_chunking(f"fixed:{size}").step(COST, beside, budget).take(gaps) == min(wanted, size)
    chunk = max(512, budget // 2) if decodes > 16 else budget
    assert parse_chunking("paper").step(COST, beside, budget).take(gaps) == min(wanted, chunk)


def test_the_fixed_budget_is_one_for_all_prefills_and_the_papers_one_for_each() -> None:
    beside = Decodes(20, 20_000)
    fixed = parse_chunking("fixed:600").step(COST, beside, 2048)
    assert [fixed.take([(0, 400)]), fixed.take([(0, 400)]), fixed.take([(0, 400)])] == [400, 200, 0]
    paper = parse_chunking("paper").step(COST, beside, 2048)
    assert [paper.take([(0, 4000)]), paper.take([(0, 4000)]), paper.take([(0, 4000)])] == [1024, 1024, 0]


def test_a_chunk_by_hand() -> None:
    # 20 decodes over 100,000 tokens take 10 + 10 + 4 = 24 ms alone; 26 ms are left at a target of 50 ms.
    decodes = Decodes(20, 100_000)
    step = parse_chunking("adaptive:tpot=50ms,least=16").step(COST, decodes, 2048)
    assert step.seconds == pytest.approx(0.024)
    # At position 10,000: 3e-9 q^2 + (1e-4 + 6e-5) q = 26 ms gives q = 162.0, so ten blocks of 16.
    assert step.take([(10_000, 20_000)]) == 160
    # Twice the decodes' own step: 24 ms are left, q = 149.6.
    assert parse_chunking("adaptive:tpot=x2,least=16").step(COST, decodes, 2048).take([(10_000, 20_000)]) == 144


def test_decodes_that_were_fast_lend_their_time() -> None:
    rule = parse_chunking("adaptive:tpot=50ms")
    assert rule.target_s(0.024) == rule.target_s(0.024, pace_s=0.06) == 0.05
    assert rule.target_s(0.024, pace_s=0.03) == pytest.approx(0.07)
    assert rule.target_s(0.024, pace_s=0.0) == pytest.approx(0.1)
    assert parse_chunking("adaptive:tpot=50ms,slack=off").target_s(0.024, pace_s=0.03) == 0.05


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("off", Chunking()),
        ("fixed:512", Chunking("fixed", size=512)),
        ("paper", Chunking("paper", threshold=16, least=512)),
        ("paper:base=1024,share=0.25", Chunking("paper", threshold=16, least=512, base=1024, share=0.25)),
        ("adaptive", Chunking("adaptive", tpot_x=1.5)),
        ("adaptive:tpot=x3,threshold=4,least=64,slack=off", Chunking("adaptive", None, 3.0, 4, 64, False)),
        ("adaptive:tpot=80", Chunking("adaptive", tpot_s=0.08)),
    ],
)
def test_names_stand_for_rules(spec: str, rule: Chunking) -> None:
    assert parse_chunking(spec) == rule


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "unknown"),
        ("clever", "unknown"),
        ("off:size=3", "no option 'size'"),
        ("fixed", "size 0"),
        ("fixed:many", "expected a finite number"),
        ("fixed:1.5", "whole number"),
        ("paper:tpot=50ms", "no option 'tpot'"),
        ("adaptive:tpot=fast", "milliseconds"),
        ("adaptive:tpot=x0.9", "tpot_x 0.9"),
        ("adaptive:tpot=-5ms", "tpot_s -0.005"),
        ("adaptive:tpot=nan", "milliseconds"),
        ("adaptive:least=0", "least 0"),
        ("adaptive:slack=maybe", "on or off"),
        ("adaptive:least=1,least=2", "twice"),
    ],
)
def test_any_other_is_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match="nothing was started") as error:
        parse_chunking(spec)
    assert said in error.value.message
