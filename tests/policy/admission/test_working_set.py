"""The working-set rule: its invariants on drawn jobs, and its cases by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import ConfigError
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.working_set import Candidate, WorkingSetConfig, choose

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
        turns, excused = draw(st.booleans()), draw(st.integers(0, 9)) == 0
        tenant = draw(st.sampled_from(["", "x", "y"]))
        chains = [tuple(f"{tenant}:{key}" for key in part) for part in chains]  # tenants share no blocks
        growth, computed = draw(st.integers(0, 9)), draw(st.integers(0, 30))
        drawn.append(Candidate(f"j{place}", order, chains, growth, held_s, turns, excused, tenant, computed))
    return drawn


def in_order(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: candidate.order)


FOOTINGS = st.sampled_from([ONE_GROUP, Footing(1, 9, 5, step_blocks=4), Footing(0.5, 2, 0.25), Footing(0, 3)])
FLOORS = st.sampled_from([(), (("x", 0.3),), (("x", 0.5), ("y", 0.5)), (("x", 0.2), ("y", 0.4), ("nobody", 0.4))])


@given(jobs(), st.integers(1, 120), st.sampled_from([0.0, 0.05, 0.3]), FLOORS, FOOTINGS)
def test_invariants(
    candidates: list[Candidate],
    capacity: int,
    headroom: float,
    floors: tuple[tuple[str, float], ...],
    footing: Footing,
) -> None:
    config = WorkingSetConfig(headroom=headroom, floors=floors)
    choice = choose(candidates, capacity, config, footing)
    by_name = {candidate.job: candidate for candidate in candidates}
    assert set(choice.members) | choice.held.keys() == by_name.keys()
    assert not set(choice.members) & choice.held.keys()
    assert in_order(candidates)[0].job in choice.members, "the first live job is always a member"
    keys = {key for name in choice.members for part in by_name[name].chains for key in part}
    growth = sum(by_name[name].growth_keys for name in choice.members)
    contexts = sum(len(by_name[name].chains) for name in choice.members)
    needed = footing.blocks(len(keys) + growth, contexts, sum(by_name[name].left_keys for name in choice.members))
    if floors:
        assert choice.used_blocks >= needed, "a floor and the rest count for themselves"
    else:
        assert choice.used_blocks == needed, "shared keys count once"
    if not choice.exceptions:
        assert choice.used_blocks <= footing.room(capacity, headroom)
    assert choice.exceptions.keys() <= set(choice.members)
    for name in choice.held:
        assert not by_name[name].excused
        assert by_name[name].held_s <= config.max_hold_s, "no hold outlasts its bound"
    members = [by_name[name] for name in choice.members]
    assert any(c.turns for c in members) or not any(c.turns for c in candidates), "somebody can run if anybody could"
    assert choose(list(reversed(candidates)), capacity, config, footing) == choice, (
        "the order of the input does not matter"
    )


@given(jobs(), st.integers(1, 120), FLOORS, FOOTINGS, st.data())
def test_taking_a_job_out_never_removes_another_member(
    jobs: list[Candidate],
    capacity: int,
    floors: tuple[tuple[str, float], ...],
    footing: Footing,
    data: st.DataObject,
) -> None:
    gone = data.draw(st.sampled_from(jobs))
    config = WorkingSetConfig(headroom=0.0, floors=floors)
    before = choose(jobs, capacity, config, footing)
    after = choose([candidate for candidate in jobs if candidate is not gone], capacity, config, footing)
    assert set(before.members) - {gone.job} - before.exceptions.keys() <= set(after.members)


@given(jobs(), st.integers(1, 120))
def test_a_floor_holds_against_everybody_else(jobs: list[Candidate], capacity: int) -> None:
    config = WorkingSetConfig(headroom=0.0, floors=(("x", 0.4),))
    choice = choose(jobs, capacity, config)
    alone = choose([c for c in jobs if c.tenant == "x"], int(capacity * 0.4), TIGHT)
    assert set(alone.members) - alone.exceptions.keys() <= set(choice.members)


def test_jobs_join_in_order_until_one_does_not_fit() -> None:
    choice = choose([job("a", 0, 40), job("b", 1, 50), job("c", 2, 20), job("d", 3, 5)], 100, TIGHT)
    assert choice.members == ("a", "b")
    assert choice.held["c"] == "needs 20 blocks, 90 of 100 are taken by 2 jobs before it"
    assert "d" in choice.held, "a small job does not overtake"


def test_who_comes_behind_a_held_job_is_told_so() -> None:
    choice = choose([job("a", 0, 90), job("b", 1, 50), job("c", 2, 5)], 100, TIGHT)
    assert choice.held["c"] == "1 jobs that came before it wait; 90 of 100 are taken by 1 jobs before it"


def test_what_a_context_takes_of_a_pool_of_several_groups_counts() -> None:
    # Each key takes one block, each context ten of windows, and a turn leaves five for each key that it computes.
    footing = Footing(1, 10, 5)
    young, old = job("young", 0, 8, left_keys=8), job("old", 1, 40, left_keys=2, growth_keys=2)
    choice = choose([young, old, job("c", 2, 1)], 130, TIGHT, footing)
    assert choice.members == ("young", "old") and choice.used_blocks == (8 + 10 + 40) + (42 + 10 + 10)
    assert choice.held["c"] == "needs 11 blocks, 120 of 130 are taken by 2 jobs before it"
    assert choose([young, old], 130, TIGHT).used_blocks == 50


def test_a_giant_runs_alone() -> None:
    choice = choose([job("giant", 0, 99), job("b", 1, 1)], 100, WorkingSetConfig())
    assert choice.members == ("giant",)
    assert choice.exceptions == {"giant": "alone"}


def test_a_giant_waits_until_it_is_the_first_and_holds_those_behind_it() -> None:
    choice = choose([job("a", 0, 10), job("giant", 1, 99), job("b", 2, 1)], 100, TIGHT)
    assert choice.members == ("a",)


def test_an_expired_hold_joins_and_is_counted() -> None:
    choice = choose([job("a", 0, 90), job("b", 1, 90, held_s=601.0)], 100, WorkingSetConfig(max_hold_s=600))
    assert choice.members == ("a", "b")
    assert choice.exceptions == {"b": "bound"}


def test_when_all_members_pause_the_first_turn_runs() -> None:
    choice = choose([job("paused", 0, 90, turns=False), job("b", 1, 20), job("c", 2, 20)], 100, TIGHT)
    assert choice.members == ("paused", "b")
    assert choice.exceptions == {"b": "idle"}
    assert "c" in choice.held


def test_when_members_do_not_run_an_excused_job_does() -> None:
    choice = choose([job("stuck", 0, 90), job("b", 1, 20, excused=True)], 100, TIGHT)
    assert choice.members == ("stuck", "b")
    assert choice.exceptions == {"b": "idle"}


def test_a_floor_lets_a_tenant_overtake_up_to_its_share() -> None:
    config = WorkingSetConfig(headroom=0.0, floors=(("x", 0.3),))
    mine = [job("x/1", 8, 20, tenant="x"), job("x/2", 9, 20, tenant="x")]
    choice = choose([job("a", 0, 60), job("b", 1, 20), *mine], 100, config)
    assert choice.members == ("x/1", "a"), "20 fit the floor of 30, which is then full; 60 of the other 70 are a's"
    assert choice.held.keys() == {"b", "x/2"}
    without = choose([job("a", 0, 60), job("b", 1, 20)], 100, config)
    assert without.members == ("a", "b"), "a floor that nobody claims is everybody's"


def test_priority_comes_before_arrival() -> None:
    urgent = Candidate("late", (-1.0, 9.0), [chain("late", 60)])
    assert choose([job("early", 0, 60), urgent], 100, TIGHT).members == ("late",)


def test_nobody_is_nobody() -> None:
    assert choose([], 100, TIGHT).members == ()


WRONG = [
    {"release_s": -1},
    {"headroom": 1.0},
    {"growth_quantile": 2.0},
    {"max_hold_s": 0},
    {"order": "chance"},
    {"theta": 0.0},
    {"floors": (("x", 0.6), ("y", 0.6))},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_rule_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WorkingSetConfig(**wrong)
