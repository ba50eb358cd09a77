"""An admission is named like a policy, and a bad name says what exists."""

import pytest

from agentcache.errors import ConfigError
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.policy.admission.working_set import WorkingSetConfig


@pytest.mark.parametrize("name", ["fcfs", "request-fcfs"])
def test_the_engines_own_order_needs_no_rule(name: str) -> None:
    assert parse_admission(name) is None


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("working-set", WorkingSetConfig()),
        ("working-set:release_s=3,headroom=0.1", WorkingSetConfig(release_s=3.0, headroom=0.1)),
        ("working-set:theta=0.5,order=turn", WorkingSetConfig(theta=0.5, order="turn")),
        ("working-set:floor.acme=0.3,floor.b=0.1", WorkingSetConfig(floors=(("acme", 0.3), ("b", 0.1)))),
        ("fixed-release:60", WorkingSetConfig(release_s=60.0)),
        ("fixed-release:60,max_hold_s=9", WorkingSetConfig(release_s=60.0, max_hold_s=9.0)),
        ("program", WorkingSetConfig(order="program", footprints=False)),
        ("program-fcfs", WorkingSetConfig(order="program", footprints=False)),
        ("program-fcfs+retained", WorkingSetConfig(order="retained", footprints=False)),
        ("priority", WorkingSetConfig(order="turn", footprints=False, priority=True)),
        ("program:priority=true", WorkingSetConfig(footprints=False, priority=True)),
        ("fixed-release:9,priority=true", WorkingSetConfig(release_s=9.0, priority=True)),
        ("resident-first", WorkingSetConfig(order="resident", footprints=False)),
    ],
)
def test_names_stand_for_rules(spec: str, rule: WorkingSetConfig) -> None:
    assert parse_admission(spec) == rule
    assert spec.partition(":")[0] in BUILT


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lottery", "unknown"),
        ("", "unknown"),
        ("fcfs:x=1", "no option 'x'"),
        ("program:headroom=0.1", "no option 'headroom'"),
        ("working-set:footprints=0", "no option 'footprints'"),
        ("working-set:60", "no option '60'"),
        ("working-set:headroom=x", "expected a finite number"),
        ("working-set:release_s=nan", "expected a finite number"),
        ("working-set:floor.a=0.1,floor.a=0.2", "twice"),
        ("working-set:theta=0.1,theta=0.2", "twice"),
        ("working-set:floor.a=0.6,floor.b=0.6", "floors"),
        ("working-set:order=chance", "out of range"),
        ("fixed-release", "no release time"),
        ("working-set:priority=1", "expected true or false"),
        ("priority:priority=true", "no option 'priority'"),
        ("fixed-release:theta=0.2", "no option 'theta'"),
    ],
)
def test_any_other_is_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match="nothing was started") as error:
        parse_admission(spec)
    assert said in error.value.message
    assert error.value.hint or "expected" in error.value.message or "twice" in error.value.message
