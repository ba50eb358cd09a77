"""All installed policies, and settings that reach their corners, pass the conformance suite."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from agentcache.policy import Policy, make_policy, names
from tests.policy.conformance import COST, Conformance

CORNERS = ["asymcache:lifespan_s=0.5,p=0.9,online_lambda=true", "asymcache:lifespan_s=30,tool=1,ended=1,superseded=1"]


@pytest.mark.parametrize("spec", [*names(), *CORNERS])
def test_policy_conforms(spec: str) -> None:
    machine = type("Machine", (Conformance,), {"spec": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=40, deadline=None))


@pytest.mark.parametrize("name", names())
def test_policy_has_the_interface(name: str) -> None:
    policy = make_policy(name, COST, 8)
    assert isinstance(policy, Policy)
    assert policy.reuse in ("prefix", "holes")
    assert "future" not in policy.needs
    assert policy.victims(0, frozenset(), 0.0) == []
    assert policy.victims(1, frozenset(), 0.0) is None
