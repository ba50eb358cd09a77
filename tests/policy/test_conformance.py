"""All installed policies, each behind every layer, and settings for their corners, pass the conformance suite."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from agentcache.policy import Policy, layers, make_policy, names
from tests.policy.conformance import COST, SERVICE, Conformance, build

CORNERS = [
    "asymcache:lifespan_s=0.5,p=0.9,online_lambda=true",
    "asymcache:lifespan_s=30,tool=1,ended=1,superseded=1",
    "max-score:eq9=1",
    "return-index:run_blocks=1",
    "return-index:reuse=prefix",
    "ttl+return-index:reuse=prefix",
    "t-lru:budget_tokens=64,next_tokens=0",
    "ttl:tau_s=30+asymcache",
    "continuum-fixed:s=30,share=0.4+ttl:tau_s=30,share=0.2+return-index",
    SERVICE + "ttl:tau_s=30+continuum-always+lru",
]
ORDERS = [name for name in names() if name not in layers()]
LAYERED = [f"{layer}+{name}" for layer in layers() for name in ORDERS] + [SERVICE + name for name in ORDERS]


def conforms(spec: str, examples: int, steps: int) -> None:
    machine = type("Machine", (Conformance,), {"spec": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


@pytest.mark.parametrize("spec", [*ORDERS, *CORNERS])
def test_policy_conforms(spec: str) -> None:
    conforms(spec, examples=25, steps=40)


@pytest.mark.parametrize("spec", LAYERED)
def test_policy_conforms_behind_a_layer(spec: str) -> None:
    conforms(spec, examples=5, steps=40)


@pytest.mark.parametrize("spec", [*ORDERS, *LAYERED])
def test_policy_has_the_interface(spec: str) -> None:
    policy = build(spec, COST, 8)
    inner = make_policy(spec.rpartition("+")[2], COST, 8)
    assert isinstance(policy, Policy)
    assert policy.name == spec.removeprefix(SERVICE)
    assert policy.reuse == inner.reuse
    own = {"pauses"} if spec.startswith("continuum-oracle+") else set()
    assert policy.needs == own | inner.needs
    assert {"future"} if inner.name.startswith("belady") else not inner.needs
    assert hasattr(policy, "guard") == hasattr(inner, "guard")
    assert policy.victims(0, frozenset(), 0.0) == []
    assert policy.victims(1, frozenset(), 0.0) is None
