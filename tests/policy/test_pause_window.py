"""The window of idle times says when to look, and slides."""

import pytest

from agentcache.policy.pause_window import PauseWindow


def test_says_when_to_update() -> None:
    window = PauseWindow(size=4, first=3, every=2)
    assert [window.add(float(i)) for i in range(8)] == [False, False, True, False, True, False, True, False]
    assert len(window) == 4
    assert window.mean() == pytest.approx(5.5)


def test_quantiles_by_hand() -> None:
    window = PauseWindow(size=100, first=1, every=1)
    for value in range(100, 0, -1):
        window.add(float(value))
    assert [window.quantile(q) for q in (0.0, 0.85, 0.99, 1.0)] == [1.0, 86.0, 100.0, 100.0]
