"""What jobs need together: shared blocks once, growth as it is expected now."""

import pytest

from agentcache.errors import CheckFailed
from agentcache.model import Standing
from agentcache.policy.admission.footing import Footing
from agentcache.policy.admission.growth import GrowthWindow
from agentcache.residency.footprints import Footprint, Footprints


def test_the_sum_follows_what_is_expected() -> None:
    replies, inputs = GrowthWindow(0.75), GrowthWindow(0.75)
    kept = Footprints(replies, inputs)
    kept.put("a", Footprint((("s", "sa"),), (Standing.TOOL,), ()))
    kept.put("b", Footprint((("s", "sb"),), (Standing.TOOL, Standing.END_TURN), (Standing.END_TURN,)))
    assert kept.blocks == 3, "what they share counts once"
    replies.add(Standing.TOOL, 3)
    inputs.add(Standing.TOOL, 2)
    assert kept.blocks == 3 + 3 * 3 + 2
    kept.put("b", Footprint((("s", "sb", "sbc"),)))
    kept.drop("nobody")
    assert kept.blocks == 4 + 3
    kept.check(["a", "b"])
    with pytest.raises(CheckFailed, match="not live"):
        kept.check(["a"])


def test_in_a_pool_of_several_groups_contexts_and_what_they_computed_count_too() -> None:
    replies = GrowthWindow(0.75)
    kept = Footprints(replies, GrowthWindow(0.75), Footing(2, 10, 0.5))
    kept.put("a", Footprint((("s", "sa"), ("s", "sb")), (Standing.TOOL,), left_keys=3))
    assert kept.blocks == 2 * 3 + 10 * 2 + 2, "half a block is a block"
    replies.add(Standing.TOOL, 4)
    assert kept.blocks == 2 * 7 + 10 * 2 + 2
    kept.put("a", Footprint((("s", "sa"),)))
    assert kept.blocks == 2 * 2 + 10
    kept.drop("a")
    assert kept.blocks == 0
    kept.check([])
