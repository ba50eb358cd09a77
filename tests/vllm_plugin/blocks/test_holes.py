"""The planner of holes against the definition: walk the tokens one by one."""

from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.blocks.holes import islands, plan, runs_of

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
    computed = sum(b - a for a, b in got[0])
    assert got == plan(runs_of(resident, BLOCK), start, end, computed, max_segments), "what it computes has one plan"


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


# Which runs are worth their segment

runs_drawn = st.lists(st.integers(1, 9), min_size=0, max_size=12).map(
    lambda gaps: [(sum(gaps[:i]) * 2 * BLOCK, sum(gaps[:i]) * 2 * BLOCK + gap * BLOCK) for i, gap in enumerate(gaps, 0)]
)


def test_an_island_that_saves_less_than_its_segment_counts_as_missing() -> None:
    runs = [(16, 32), (64, 128), (160, 176)]
    assert islands(runs, lambda start, end: end - start, 17, 8) == [(64, 128)]
    assert islands(runs, lambda start, end: end - start, 16, 8) == runs
    assert islands(runs, lambda start, end: float(start), 0, 3) == runs[1:], "two islands make three segments"
    assert islands(runs, lambda start, end: 1.0, 0, 2) == runs[2:], "of equals the foremost go"
    assert islands(runs, lambda start, end: 1.0, 0, 1) == []


@given(runs_drawn, st.floats(0, 60), st.integers(1, 9), st.floats(0, 3))
def test_what_is_kept_is_worth_most(runs: list[tuple[int, int]], least: float, max_segments: int, slope: float) -> None:
    def seconds(start: int, end: int) -> float:
        return (end - start) * (1 + slope * start)

    kept = islands(runs, seconds, least, max_segments)
    assert kept == [run for run in runs if run in kept], "in order"
    assert len(kept) + 1 <= max(max_segments, 1)
    assert all(seconds(*run) >= least for run in kept)
    worthy = [run for run in runs if seconds(*run) >= least]
    if len(kept) < len(worthy):
        assert len(kept) == max_segments - 1
        dropped = [seconds(*run) for run in worthy if run not in kept]
        assert max(dropped) <= min([seconds(*run) for run in kept], default=max(dropped))
    # The plan over what is kept stays within the cap, whatever the budget.
    end = (runs[-1][1] if runs else 0) + 1
    position, segments = 0, []
    if not kept or kept[0][0] > 0:
        while position < end:
            some, position = plan(kept, position, end, end, 1)
            segments += some
        assert len(segments) == len(kept) + 1
