"""Deadlines: the last that was said of a name counts, and no more entries are kept than that takes."""

import math

from agentcache.residency.deadlines import Deadlines


def test_deadlines_are_the_last_that_were_said() -> None:
    due = Deadlines()
    for at in (5.0, 3.0, 9.0):
        due.add(at, "a")
    due.add(4.0, "b")
    due.add(math.inf, "b")
    assert list(due.passed(8.0)) == [] and len(due) == 1
    assert list(due.passed(9.0)) == ["a"] and due.next == math.inf
    for number in range(1000):
        due.add(float(number), "c")
    assert len(due._heap) <= 68
