"""Drawn cases: written down and read again, varied as they should be, and made smaller without losing the failure."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import InputError
from agentcache.vllm_plugin.lab.verify.engine import cases
from agentcache.vllm_plugin.lab.verify.engine.cases import (
    BUDGETS,
    CONTEXTS,
    POOLS,
    Reproducer,
    Setting,
    draw,
    tour,
    withdrawal,
)
from agentcache.vllm_plugin.lab.verify.programs import (
    ANSWER_TOKENS,
    SHAPES,
    Abort,
    Budget,
    Drain,
    Evict,
    Preempt,
    Reset,
    Sleep,
    Squeeze,
    Step,
    Submit,
)

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
