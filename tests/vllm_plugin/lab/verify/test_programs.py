"""Programs of either device, made smaller without losing the failure."""

import random
from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld, World
from agentcache.vllm_plugin.lab.verify.engine.cases import Case, draw
from agentcache.vllm_plugin.lab.verify.programs import Abort, Budget, Drain, Evict, Op, Preempt, Step, Submit, shrink


def test_shrinking_leaves_what_is_needed() -> None:
    program = InWorld((Submit(1), Step(3), Submit(2), Abort(0), Step(), Submit(3), Drain()), World())
    smaller = shrink(program, lambda one: Submit(2) in one.ops and Abort(0) in one.ops, trials=300)
    assert smaller == InWorld((Submit(2), Abort(0), Drain()), World())


def test_what_does_not_matter_goes() -> None:
    guilty = (Submit(3, "cut", answer=5, samples=2, salt="a"), Preempt(7))
    noise: list[Op] = [Budget(64), Submit(1), Step(3), Evict(0.5, 3), Abort(2), Drain()]
    case = Case((*noise, guilty[0], *noise, guilty[1], *noise))

    def fails(smaller: Case) -> bool:
        kinds = [type(op) for op in smaller.ops if isinstance(op, Submit | Preempt)]
        return Preempt in kinds and Submit in kinds[: kinds.index(Preempt)]

    small = shrink(case, fails, trials=60)
    assert [type(op) for op in small.ops] == [Submit, Preempt, Drain]
    assert small.ops[1] == Preempt(0)
    assert small.ops[0] == Submit(small.ops[0].context)  # type: ignore[union-attr]


@given(st.integers(0, 2**32), st.integers(1, 80), st.data())
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
