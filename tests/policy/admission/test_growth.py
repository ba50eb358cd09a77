"""Growth is learnt by class once a class has enough samples."""

from agentcache.model import Standing
from agentcache.policy.admission.growth import GrowthWindow


def test_nothing_is_expected_of_what_was_never_seen() -> None:
    assert GrowthWindow(0.75).expected(Standing.TOOL) == 0


def test_a_class_speaks_for_itself_when_it_has_been_seen_often() -> None:
    growth = GrowthWindow(0.75)
    for _ in range(15):
        growth.add(Standing.TOOL, 4)
    for _ in range(3):
        growth.add(Standing.END_TURN, 100)
    assert growth.expected(Standing.END_TURN) == growth.expected(Standing.TOOL) == 4, "18 of all, 15 are small"
    for _ in range(13):
        growth.add(Standing.END_TURN, 100)
    assert growth.expected(Standing.END_TURN) == 100
    growth.add(Standing.TOOL, 4)
    assert growth.expected(Standing.TOOL) == 4


def test_the_quantile_follows_the_window() -> None:
    growth = GrowthWindow(0.5)
    for blocks in (1, 2, 3):
        growth.add(Standing.TOOL, blocks)
    assert growth.expected(Standing.TOOL) == 2
    for _ in range(512):
        growth.add(Standing.TOOL, 9)
    assert growth.expected(Standing.TOOL) == 9
