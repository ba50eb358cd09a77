"""Drawn cases: written down and read again, varied as they should be, and made smaller without losing the failure."""

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import InputError
from agentcache.vllm_plugin.lab.verify import cases
from agentcache.vllm_plugin.lab.verify.cases import (
    BUDGETS,
    CONTEXTS,
    POOLS,
    SHAPES,
    Abort,
    Budget,
    Case,
    Drain,
    Evict,
    Op,
    Preempt,
    Reproducer,
    Reset,
    Setting,
    Sleep,
    Squeeze,
    Step,
    Submit,
    draw,
    shrink,
    tour,
    withdrawal,
)
from agentcache.vllm_plugin.lab.verify.sizes import ANSWER_TOKENS

SEEDS = st.integers(0, 2**32)
RUNNERS = st.sampled_from(("v1", "v2"))


@given(SEEDS, RUNNERS)
def test_a_seed_names_a_case_that_an_engine_can_run(seed: int, runner: str) -> None:
    case = draw(random.Random(seed), runner)
    assert case == draw(random.Random(seed), runner)
    assert case.ops[-1] == Drain()
    assert case.pool in POOLS
    assert any(isinstance(op, Evict) for op in case.ops), "a pattern of eviction"
    submits = [op for op in case.ops if isinstance(op, Submit)]
    assert submits
    assert all(0 <= op.context < CONTEXTS and op.shape in SHAPES and 1 <= op.answer <= ANSWER_TOKENS for op in submits)
    assert runner == "v1" or all(op.samples == 1 for op in submits)


@given(SEEDS)
def test_at_equal_shapes_one_request_runs_at_a_time_and_whole_chunks_are_evicted(seed: int) -> None:
    case = cases._equal(random.Random(seed))
    assert case.equal
    for op, following in zip(case.ops, case.ops[1:], strict=False):
        if isinstance(op, Submit):
            assert following == Drain()
            assert (op.shape, op.samples, op.salt) == ("whole", 1, None)
        if isinstance(op, Evict):
            assert op.chunk_blocks * 32 == cases.EQUAL_BUDGET


def test_every_operation_and_every_choice_is_drawn() -> None:
    drawn = [draw(random.Random(seed)) for seed in range(300)]
    ops = [op for case in drawn for op in case.ops]
    assert {type(op) for op in ops} == {Submit, Step, Drain, Evict, Abort, Preempt, Reset, Budget, Sleep}
    assert {case.pool for case in drawn} == set(POOLS)
    assert {op.tokens for op in ops if isinstance(op, Budget)} >= set(BUDGETS)
    submits = [op for op in ops if isinstance(op, Submit)]
    assert {op.shape for op in submits} == set(SHAPES)
    assert {op.salt for op in submits} == {None, "a", "b"}
    assert {op.samples for op in submits} == {1, 2, 3}
    share = Counter(case.equal for case in drawn)[True] / len(drawn)
    assert 0.03 < share < 0.3


def test_what_is_crowded_has_a_small_pool_and_now_and_then_no_block() -> None:
    drawn = [draw(random.Random(seed), crowded=True) for seed in range(100)]
    crowded = [case for case in drawn if not case.equal]
    assert {case.pool for case in crowded} == set(POOLS[:2])
    assert all(any(isinstance(op, Squeeze) for op in case.ops) for case in crowded)


def test_in_a_withdrawal_a_long_prompt_meets_a_more_urgent_one_when_blocks_run_out() -> None:
    ops = withdrawal().ops
    for number in (number for number, op in enumerate(ops) if isinstance(op, Squeeze)):
        first, *_, second = (op for op in ops[:number][-5:] if isinstance(op, Submit))
        assert first.urgency > second.urgency
        assert (first.context, second.context) == (cases.LONGEST, cases.EDGE)


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_a_tour_disturbs_in_every_way(runner: str) -> None:
    ops = [op for case in tour(runner) for op in case.ops]
    assert {type(op) for op in ops} == {Submit, Step, Drain, Evict, Abort, Preempt, Reset, Budget, Sleep}
    assert runner == "v2" or {op.tokens for op in ops if isinstance(op, Budget)} == set(BUDGETS)


@given(SEEDS, RUNNERS)
def test_what_is_written_is_read(seed: int, runner: str) -> None:
    case = draw(random.Random(seed), runner)
    written = Reproducer(Setting("tiny-llama", "float32", runner=runner), case, (case,))
    assert Reproducer.read(written.json) == written
    assert "\n" not in written.json


@pytest.mark.parametrize("text", ["", "{}", '{"setting": 1}', "no case"])
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no case"):
        Reproducer.read(text)


def test_what_does_not_matter_goes() -> None:
    guilty = (Submit(3, "cut", answer=5, samples=2, salt="a"), Preempt(7))
    noise: list[Op] = [Budget(64), Submit(1), Step(3), Evict(0.5, 3), Abort(2), Drain()]
    case = Case((*noise, guilty[0], *noise, guilty[1], *noise))

    def fails(smaller: Case) -> bool:
        kinds = [type(op) for op in smaller.ops if isinstance(op, Submit | Preempt)]
        return Preempt in kinds and Submit in kinds[: kinds.index(Preempt)]

    small = shrink(case, fails)
    assert [type(op) for op in small.ops] == [Submit, Preempt, Drain]
    assert small.ops[1] == Preempt(0)
    assert small.ops[0] == Submit(small.ops[0].context)  # type: ignore[union-attr]


@given(SEEDS, st.integers(1, 80), st.data())
def test_a_shrunk_case_still_fails_and_costs_no_more_than_was_allowed(
    seed: int, trials: int, data: st.DataObject
) -> None:
    case = draw(random.Random(seed))
    needed = data.draw(st.lists(st.sampled_from([msgspec.json.encode(op) for op in case.ops]), max_size=3))
    asked = []

    def fails(smaller: Case) -> bool:
        asked.append(smaller)
        left = Counter(map(msgspec.json.encode, smaller.ops))
        return all(left[op] >= count for op, count in Counter(needed).items())

    want = Counter(map(msgspec.json.encode, case.ops))
    if any(want[op] < count for op, count in Counter(needed).items()):
        return  # it does not fail in the first place
    small = shrink(case, fails, trials)
    assert len(asked) <= trials
    assert small == case or small in asked
    assert all(smaller.ops[-1] == Drain() and smaller.pool == case.pool for smaller in asked)
    asked.clear()
    assert fails(small)
    if trials == 80 and len(set(needed)) == len(needed):
        assert len(small.ops) <= len(needed) + 1 or len(case.ops) > 20
