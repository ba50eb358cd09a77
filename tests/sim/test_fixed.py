"""The fixed schedule, on turns small enough to follow by hand; blocks of 10 tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import LoadPrice
from agentcache.errors import ConfigError, InputError
from agentcache.model import Key, Stop
from agentcache.policy import layers, names
from agentcache.sim import FixedRun, Turn, run_fixed
from agentcache.sim.fixed import TierSpec

COST = CostModel(CostProfile(c_lin=1e-3, c_att=1e-6, c0=0.5, c_seg=0.1), 10)


def chain(text: str) -> tuple[Key, ...]:
    return tuple(text[: end + 1] for end in range(len(text)))


def turn(name: str, start_s: float, text: str, tokens: int, end_s: float | None = None, **more: object) -> Turn:
    return Turn(name, start_s, start_s + 1 if end_s is None else end_s, tokens, chain(text), **more)  # type: ignore[arg-type]


def hits(run: FixedRun) -> list[int]:
    return [row.hits for row in run.rows]


def test_a_context_that_fits_is_reused_but_for_its_last_token() -> None:
    turns = [turn("1", 0, "abc", 25), turn("2", 10, "abcd", 40), turn("3", 20, "abcd", 40)]
    run = run_fixed(turns, "lru", COST, 10)
    # Turn 1 leaves a, b and the output's c; turn 2 can take all of them; 40 tokens of turn 3 are 4 full blocks, of
    # which the last is computed again since it holds the last token.
    assert hits(run) == [0, 3, 3]
    assert [row.prompt_blocks for row in run.rows] == [2, 3, 3]
    assert [row.missing_runs for row in run.rows] == [1, 1, 1]
    assert run.rows[1].paid_s == pytest.approx(0.5 + 10 * 1e-3 + (40**2 - 30**2) * 1e-6)
    assert run.rows[1].saved_s == pytest.approx(30 * 1e-3 + 30**2 * 1e-6)
    assert run.saved_fraction == pytest.approx(1 - run.paid_s / sum(row.paid_s + row.saved_s for row in run.rows))


def two_contexts() -> list[Turn]:
    """Context a of 5 blocks, then z of 3 in a pool of 6: two of a's blocks must go before it returns."""
    return [turn("1", 0, "abcde", 55), turn("2", 10, "xyz", 35), turn("3", 20, "abcde", 55)]


def test_lru_keeps_the_prefix_and_lru_holes_the_tail() -> None:
    prefix, holes = (run_fixed(two_contexts(), policy, COST, 6).rows[2] for policy in ("lru", "lru-holes"))
    assert (prefix.hits, prefix.hits_after_hole, prefix.missing_runs) == (3, 0, 1)
    assert (holes.hits, holes.hits_after_hole, holes.missing_runs) == (3, 3, 2)
    # Tokens [30, 55) in one run against [0, 20) and [50, 55) in two.
    assert prefix.paid_s == pytest.approx(0.5 + 25e-3 + (55**2 - 30**2) * 1e-6)
    assert holes.paid_s == pytest.approx(0.6 + 25e-3 + (20**2 + 55**2 - 50**2) * 1e-6)


def test_stock_is_our_lru() -> None:
    stock, ours = (run_fixed(two_contexts(), policy, COST, 6) for policy in ("vllm-lru", "lru"))
    assert stock.policy == "vllm-lru"
    assert stock.rows == ours.rows


@pytest.mark.parametrize("policy", ["lru", "lru-holes"])
def test_what_left_the_pool_is_loaded_from_the_tier(policy: str) -> None:
    run = run_fixed(two_contexts(), policy, COST, 6, TierSpec("lru", 8, LoadPrice(1e-3, 1e-3)))
    last = run.rows[2]
    assert (last.hits, last.hits_after_hole, last.missing_runs, last.loaded) == (5, 0, 1, 2)
    assert last.load_s == pytest.approx(3e-3)
    assert last.paid_s == pytest.approx(0.5 + 5e-3 + (55**2 - 50**2) * 1e-6)
    assert (run.loaded, run.load_s) == (2, last.load_s)
    slow = run_fixed(two_contexts(), policy, COST, 6, TierSpec("lru", 8, LoadPrice(9.0)))
    assert slow.rows == run_fixed(two_contexts(), policy, COST, 6).rows
    small = run_fixed(two_contexts(), policy, COST, 6, TierSpec("lru", 1, LoadPrice(1e-3)))
    assert small.loaded == 1, "of what leaves, the block nearest to the head"
    through = run_fixed(two_contexts(), policy, COST, 6, TierSpec("lru", 1, LoadPrice(1e-3), through=True))
    assert through.loaded == 0, "the last turn's own head has taken the only place"


def test_an_ended_job_goes_first_under_asymcache() -> None:
    turns = [
        turn("1", 0, "abcde", 55, job="done", last=True),
        turn("2", 1, "klmno", 55, job="paused", stop=Stop.TOOL_USE),
        turn("3", 10, "xyz", 35),
        turn("4", 20, "klmno", 55, job="paused"),
    ]
    assert hits(run_fixed(turns, "asymcache:lifespan_s=30", COST, 10))[3] == 5
    reversed_ends = [turns[1], turns[0], *turns[2:]]
    assert hits(run_fixed(reversed_ends, "asymcache:lifespan_s=30", COST, 10))[3] == 5


def test_running_turns_share_blocks_and_hold_them() -> None:
    turns = [turn("1", 0, "abc", 30, end_s=100), turn("2", 10, "abcd", 45, end_s=20), turn("3", 30, "xyz", 30)]
    run = run_fixed(turns, "lru", COST, 4)
    assert hits(run) == [0, 3, 0]
    # Only d is free when turn 3 comes: one of its three blocks fits.
    assert [row.overflow_blocks for row in run.rows] == [0, 0, 2]
    assert run.overflow_blocks == 2
    assert run.evicted_blocks == 1


def test_a_pool_smaller_than_a_turn_overflows_and_goes_on() -> None:
    run = run_fixed([turn("1", 0, "abcdef", 45), turn("2", 5, "abcdef", 45)], "lru", COST, 3)
    assert [row.overflow_blocks for row in run.rows] == [3, 3]
    assert hits(run) == [0, 3]


def test_at_one_moment_blocks_come_back_before_they_are_taken() -> None:
    turns = [turn("1", 0, "abc", 30, end_s=5), turn("2", 5, "xyz", 30), turn("3", 6, "x", 10, end_s=6)]
    run = run_fixed(turns, "lru", COST, 3)
    assert run.overflow_blocks == 0
    assert [row.turn for row in run.rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "turns",
    [
        [turn("1", 5, "abc", 30, end_s=4)],
        [turn("1", 0, "abc", 40)],
        [turn("1", 0, "abc", 0)],
        [turn("1", 0, "a", 10), turn("1", 5, "a", 10)],
    ],
)
def test_bad_turns_are_refused(turns: list[Turn]) -> None:
    with pytest.raises(InputError, match="not run"):
        run_fixed(turns, "lru", COST, 3)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown policy"):
        run_fixed([], "vllm-lfu", COST, 3)
    assert run_fixed([], "lru", COST, 3).saved_fraction == 0.0


drawn_turns = st.lists(
    st.tuples(
        st.floats(0, 100), st.floats(0, 20), st.text("ab", max_size=8), st.integers(1, 30), st.none() | st.booleans()
    ),
    max_size=20,
)


@given(drawn_turns, st.integers(1, 20))
@settings(max_examples=60)
def test_every_policy_is_deterministic_and_never_pays_for_what_it_reuses(
    drawn: list[tuple[float, float, str, int, bool | None]], capacity_blocks: int
) -> None:
    turns = [
        Turn(str(number), start, start + length, min(tokens, 10 * len(text) + 9), chain(text), last=last)
        for number, (start, length, text, tokens, last) in enumerate(drawn)
    ]
    for name in sorted({*names()} - {*layers()}):
        run = run_fixed(turns, name, COST, capacity_blocks)
        assert run == run_fixed(turns, name, COST, capacity_blocks)
        for row in run.rows:
            assert row.hits_after_hole <= row.hits <= row.prompt_blocks
            assert row.saved_s >= row.hits * COST.a - 0.1 * (row.missing_runs - 1) - 1e-9
            assert (row.hits_after_hole > 0) <= (row.missing_runs > 1)
    endless = [run_fixed(turns, name, COST, 10_000).rows for name in sorted({*names()} - {*layers()})]
    assert all(rows == endless[0] for rows in endless), "without eviction no order matters"
