"""An admission is named like a policy, and a bad name says what exists."""

import pytest

from agentcache.errors import ConfigError
from agentcache.policy.admission import parse_admission


def test_the_engines_own_order_needs_no_rule() -> None:
    assert parse_admission("fcfs") is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("program", "not built yet"),
        ("fixed-release:60", "not built yet"),
        ("lottery", "unknown"),
        ("", "unknown"),
        ("fcfs:x=1", "no option 'x'"),
    ],
)
def test_any_other_is_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match="nothing was started") as error:
        parse_admission(spec)
    assert said in error.value.message
    assert error.value.hint
