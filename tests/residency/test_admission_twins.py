"""Admission looks at what has changed: its choice is the one that the rule makes of all live jobs, event by event."""

from dataclasses import astuple
from typing import Any

from hypothesis import settings

from agentcache.policy import make_policy
from agentcache.residency import Residency
from agentcache.residency.admission import WorkingSetAdmission
from tests.residency.test_admission_machine import COST, Machine


class _Both:
    """Two residencies that hear the same; whatever is asked, they must agree."""

    def __init__(self, quick: Residency) -> None:
        self.quick = quick
        self.plain = Residency(make_policy("lru-holes", COST, 60), 60)
        assert quick.admission
        self.plain.admission = WorkingSetAdmission(
            quick.admission.config, 60, self.plain.contexts, self.plain.survival, quick.admission.footing
        )
        self.plain.admission._by_rule = True

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
