"""What contexts take of a pool, in numbers."""

import math

import pytest

from agentcache.errors import ConfigError
from agentcache.policy.admission.footing import ONE_GROUP, Footing


def test_by_default_a_key_is_a_block() -> None:
    assert ONE_GROUP == Footing() == Footing(1, 0, 0)
    assert ONE_GROUP.room(100, 0.05) == 100 * (1 - 0.05)
    assert ONE_GROUP.blocks(10**17 + 1, 5, 7) == 10**17 + 1, "whole numbers stay whole"


def test_keys_contexts_and_what_was_computed_add_up_to_whole_blocks() -> None:
    assert Footing(1, 45, 5).blocks(keys=30, contexts=2, left_keys=3) == 30 + 90 + 15
    assert Footing(0.5, 0, 0.25).blocks(3, 9, 1) == 2
    assert Footing(step_blocks=20).room(120, 0.5) == 50
    assert Footing(0, 3).blocks(1000, 2, 1000) == 6, "states alone do not grow"


@pytest.mark.parametrize(
    "numbers",
    [
        (-1, 1, 1),
        (1, -1, 0),
        (1, 0, -0.5),
        (math.nan, 1, 0),
        (1, math.inf, 0),
        (0, 0, 1),
        (1, 0, 1, -1),
        (1, 0, 0, 0, -1),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="numbers of blocks >= 0 were expected"):
        Footing(*numbers)
