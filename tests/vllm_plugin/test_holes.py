"""The planner of holes against the definition: walk the tokens one by one."""

from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.holes import plan, runs_of

BLOCK = 4


def naive(
    resident: set[int], start: int, end: int, budget: int, max_segments: int
) -> tuple[list[tuple[int, int]], int]:
    segments: list[list[int]] = []
    position = start
    while position < end:
        if position in resident:
            position += 1
            continue
        fresh = not segments or segments[-1][1] != position
        if budget == 0 or (fresh and len(segments) == max_segments):
            break
        if fresh:
            segments.append([position, position])
        segments[-1][1] += 1
        budget -= 1
        position += 1
    return [(a, b) for a, b in segments], position


def test_runs_join_neighbours() -> None:
    assert runs_of([3, 4, 7], 16) == [(48, 80), (112, 128)]
    assert runs_of([], 16) == []


def test_a_hole_is_filled_and_the_resident_run_behind_it_jumped() -> None:
    assert plan([(32, 64)], 0, 100, 512, 8) == ([(0, 32), (64, 100)], 100)
    assert plan([(32, 64)], 0, 100, 512, 1) == ([(0, 32)], 64)
    assert plan([(32, 64)], 0, 100, 16, 8) == ([(0, 16)], 16)


def test_a_decode_is_one_segment() -> None:
    assert plan([(32, 64)], 99, 100, 1, 1) == ([(99, 100)], 100)


@given(st.data())
def test_plan_agrees_with_walking_the_tokens(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 12))
    end = blocks * BLOCK + data.draw(st.integers(1, BLOCK))
    resident = sorted(data.draw(st.sets(st.integers(0, blocks - 1))))
    tokens = {block * BLOCK + i for block in resident for i in range(BLOCK)}
    start = data.draw(st.sampled_from([t for t in range(end) if t not in tokens]))
    budget = data.draw(st.integers(1, end))
    max_segments = data.draw(st.integers(1, 5))
    got = plan(runs_of(resident, BLOCK), start, end, budget, max_segments)
    assert got == naive(tokens, start, end, budget, max_segments)


@given(st.data())
def test_repeated_plans_compute_every_missing_token_once(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 12))
    end = blocks * BLOCK + data.draw(st.integers(1, BLOCK))
    resident = sorted(data.draw(st.sets(st.integers(0, blocks - 1))))
    tokens = {block * BLOCK + i for block in resident for i in range(BLOCK)}
    position = min(t for t in range(end) if t not in tokens)
    computed: list[int] = []
    while position < end:
        segments, position = plan(runs_of(resident, BLOCK), position, end, data.draw(st.integers(1, 9)), 2)
        computed += [t for a, b in segments for t in range(a, b)]
    assert computed == [t for t in range(end) if t not in tokens]
