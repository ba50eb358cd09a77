"""What jobs need together: shared blocks once, growth as it is expected now."""

import pytest

from agentcache.errors import CheckFailed
from agentcache.model import Standing
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
