"""The steady clock: it goes with another one, but for leaps."""

from hypothesis import given
from hypothesis import strategies as st

from agentcache.service.directory.clock import SteadyClock


@given(st.floats(-1e6, 1e6), st.lists(st.floats(-1e5, 1e5), max_size=50))
def test_it_adds_up_all_steps_that_are_no_leaps(start: float, steps: list[float]) -> None:
    clock, shown, expected, leaps = SteadyClock(2.5), start, 0.0, 0
    assert clock.at(shown) == 0.0
    for step in steps:
        before, shown = shown, shown + step
        if 0 <= shown - before <= 2.5:
            expected += shown - before
        else:
            leaps += 1
        assert clock.at(shown) == expected
    assert clock.leaps == leaps
