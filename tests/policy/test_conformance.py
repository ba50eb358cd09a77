"""All installed policies, and settings that reach their corners, pass the conformance suite."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from agentcache.policy import Policy, layers, make_policy, names
from tests.policy.conformance import COST, Conformance

CORNERS = [
    "asymcache:lifespan_s=0.5,p=0.9,online_lambda=true",
    "asymcache:lifespan_s=30,tool=1,ended=1,superseded=1",
    "max-score:eq9=1",
    "return-index:run_blocks=1",
    "t-lru:budget_tokens=64,next_tokens=0",
    "ttl:tau_s=30+asymcache",
    "ttl:tau_s=30+return-index",
]
SPECS = [f"{name}+lru-holes" if name in layers() else name for name in names()]


@pytest.mark.parametrize("spec", [*SPECS, *CORNERS])
def test_policy_conforms(spec: str) -> None:
    machine = type("Machine", (Conformance,), {"spec": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=40))


@pytest.mark.parametrize("name", SPECS)
def test_policy_has_the_interface(name: str) -> None:
    policy = make_policy(name, COST, 8)
    assert isinstance(policy, Policy)
    assert policy.reuse in ("prefix", "holes")
    needs = {"belady": {"future"}, "belady-compute": {"future"}, "continuum-oracle+lru-holes": {"pauses"}}
    assert policy.needs == needs.get(name, frozenset())
    assert policy.victims(0, frozenset(), 0.0) == []
    assert policy.victims(1, frozenset(), 0.0) is None
