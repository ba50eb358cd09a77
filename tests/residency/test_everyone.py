"""Where all live jobs fit nobody is looked through: the choice is the one that the rule would make, event by event."""

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import settings

from agentcache.errors import CheckFailed
from agentcache.model import Standing
from agentcache.policy import make_policy
from agentcache.policy.growth import GrowthWindow
from agentcache.residency import Residency
from agentcache.residency.admission import Everyone, WorkingSetAdmission
from agentcache.residency.footprints import Footprint, Footprints
from tests.residency.test_admission_machine import COST, Machine


class _Plain(WorkingSetAdmission):
    """Applies the rule to all live jobs whenever something may have changed."""

    def _all_fit(self, now: float) -> bool:
        super()._all_fit(now)
        return False


class _Both:
    """Two residencies that hear the same; whatever is asked, they must agree."""

    def __init__(self, quick: Residency) -> None:
        self.quick = quick
        self.plain = Residency(make_policy("lru-holes", COST, 60), 60)
        assert quick.admission
        self.plain.admission = _Plain(quick.admission.config, 60, self.plain.contexts, self.plain.survival)

    @property
    def admission(self) -> WorkingSetAdmission | None:
        return self.quick.admission

    def observe(self, event: Any, now: float) -> None:
        self.quick.observe(event, now)
        self.plain.observe(event, now)

    def admit(self, now: float) -> None:
        self.quick.admit(now)
        self.plain.admit(now)
        one, other = self.quick.admission, self.plain.admission
        assert one and other
        assert sorted(one.choice.members) == sorted(other.choice.members)
        assert one.choice.held.keys() == other.choice.held.keys()
        assert one.choice.exceptions == other.choice.exceptions
        assert one.choice.used_blocks == other.choice.used_blocks
        assert astuple(one.counts) == astuple(other.counts)
        other.check()

    def stalled(self) -> None:
        self.quick.stalled()
        self.plain.stalled()

    def rank(self, turn: str) -> tuple[float, ...]:
        assert self.quick.rank(turn) == self.plain.rank(turn)
        return self.quick.rank(turn)

    def may_run(self, turn: str) -> bool:
        assert self.quick.may_run(turn) == self.plain.may_run(turn)
        return self.quick.may_run(turn)


class Twins(Machine):
    def made(self, core: Residency) -> Any:
        return _Both(core)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=300, stateful_step_count=50)


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


def test_everyone_is_said_when_asked_for() -> None:
    everyone = Everyone({}, Footprints(GrowthWindow(0.5), GrowthWindow(0.5)))
    assert everyone.members == () and everyone.used_blocks == 0
