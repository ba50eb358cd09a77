"""The working-set rule: its invariants on drawn jobs, and its cases by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import ConfigError
from agentcache.model import shared
from agentcache.policy.working_set import Candidate, WorkingSetConfig, choose, new_keys

TIGHT = WorkingSetConfig(headroom=0.0)


def chain(name: str, length: int, common: int = 0) -> tuple[str, ...]:
    """Keys of a context whose first `common` blocks are those of every other."""
    return tuple(f"system-{i}" if i < common else f"{name}-{i}" for i in range(length))


def job(name: str, place: int, blocks: int, **more: object) -> Candidate:
    return Candidate(name, (place,), [chain(name, blocks)], **more)  # type: ignore[arg-type]


@st.composite
def jobs(draw: st.DrawFn) -> list[Candidate]:
    drawn = []
    for place in range(draw(st.integers(1, 8))):
        common = draw(st.integers(0, 5))
        lengths = draw(st.lists(st.integers(0, 30), min_size=1, max_size=3))
        chains = [chain(f"{place}.{i}", common + length, common) for i, length in enumerate(lengths)]
        held_s = draw(st.sampled_from([0.0, 0.0, 10.0, 1000.0]))
        order = (draw(st.integers(0, 2)), place)
        drawn.append(Candidate(f"j{place}", order, chains, draw(st.integers(0, 9)), held_s, draw(st.booleans())))
    return drawn


def in_order(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: candidate.order)


@given(jobs(), st.integers(1, 120), st.sampled_from([0.0, 0.05, 0.3]))
def test_invariants(candidates: list[Candidate], capacity: int, headroom: float) -> None:
    config = WorkingSetConfig(headroom=headroom)
    choice = choose(candidates, capacity, config)
    by_name = {candidate.job: candidate for candidate in candidates}
    assert set(choice.members) | choice.held.keys() == by_name.keys()
    assert not set(choice.members) & choice.held.keys()
    assert choice.members[0] == in_order(candidates)[0].job, "the first live job is always a member"
    keys = {key for name in choice.members for part in by_name[name].chains for key in part}
    growth = sum(by_name[name].growth_blocks for name in choice.members)
    assert choice.used_blocks == len(keys) + growth, "shared blocks count once"
    if len(choice.members) > 1 and not choice.exceptions:
        assert choice.used_blocks <= capacity * (1 - headroom)
    for name in choice.held:
        assert by_name[name].held_s <= config.max_hold_s, "no hold outlasts its bound"
    members = [by_name[name] for name in choice.members]
    assert any(c.turns for c in members) or not any(c.turns for c in candidates), "somebody can run if anybody could"
    assert choose(list(reversed(candidates)), capacity, config) == choice, "the order of the input does not matter"


@given(jobs(), st.integers(1, 120), st.data())
def test_taking_a_job_out_never_removes_another_member(
    jobs: list[Candidate], capacity: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(jobs))
    before = choose(jobs, capacity, TIGHT)
    after = choose([candidate for candidate in jobs if candidate is not gone], capacity, TIGHT)
    assert set(before.members) - {gone.job} - set(before.exceptions) <= set(after.members)


def test_jobs_join_in_order_until_one_does_not_fit() -> None:
    choice = choose([job("a", 0, 40), job("b", 1, 50), job("c", 2, 20), job("d", 3, 5)], 100, TIGHT)
    assert choice.members == ("a", "b")
    assert choice.held["c"] == "needs 20 blocks, 90 of 100 are taken by 2 jobs before it"
    assert "d" in choice.held, "a small job does not overtake"


def test_a_giant_runs_alone() -> None:
    choice = choose([job("giant", 0, 99), job("b", 1, 1)], 100, WorkingSetConfig())
    assert choice.members == ("giant",)


def test_an_expired_hold_joins_and_is_counted() -> None:
    choice = choose([job("a", 0, 90), job("b", 1, 90, held_s=601.0)], 100, WorkingSetConfig())
    assert choice.members == ("a", "b")
    assert choice.exceptions == ("b",)


def test_when_all_members_pause_the_first_turn_runs() -> None:
    choice = choose([job("paused", 0, 90, turns=False), job("b", 1, 20), job("c", 2, 20)], 100, TIGHT)
    assert choice.members == ("paused", "b")
    assert choice.exceptions == ("b",)
    assert "c" in choice.held


def test_priority_comes_before_arrival() -> None:
    urgent = Candidate("late", (-1.0, 9.0), [chain("late", 60)])
    assert choose([job("early", 0, 60), urgent], 100, TIGHT).members == ("late",)


def test_nobody_is_nobody() -> None:
    assert choose([], 100, TIGHT).members == ()


def test_shared_prefixes() -> None:
    assert shared("abcd", "abxd") == 2
    assert shared("", "a") == 0
    assert new_keys(chain("a", 10, 4), [chain("b", 6, 4)], [chain("c", 3, 2)]) == 6


@pytest.mark.parametrize("wrong", [{"release_s": -1}, {"headroom": 1.0}, {"growth_quantile": 2.0}, {"max_hold_s": 0}])
def test_a_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WorkingSetConfig(**wrong)
