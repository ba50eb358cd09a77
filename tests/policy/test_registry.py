"""Policies are found by name, and a bad spec says what exists."""

import re

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.model import Context, ContextChanged, Standing
from agentcache.policy import layers, make_online_policy, make_policy, names
from agentcache.policy.base import Retains
from agentcache.policy.published.asymcache import AsymCache

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)


def test_names_are_those_that_specs_use() -> None:
    assert {"lru", "asymcache-paper", "return-index", "belady-compute", "ttl"} <= set(names())
    assert {"ttl", "continuum"} <= set(layers())
    for name in names():
        spec = f"{name}+lru" if name in layers() else name
        assert make_policy(spec, COST, 8).name == spec


def test_options_reach_the_policy() -> None:
    policy = make_policy("asymcache:lifespan_s=1155,p=0.99,r=40", COST, 8)
    assert isinstance(policy, AsymCache)
    # alpha = -L/ln p, beta = alpha/r, tau0 = L(1 - 1/r), as printed for this setting.
    assert (policy._alpha, policy._beta, policy._tau0) == pytest.approx((114_922, 2_873, 1_126), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "said", "hint"),
    [
        ("lfu", "unknown policy 'lfu'", "lru-holes"),
        ("", "unknown policy ''", "lru"),
        ("lru:p=1", "no option 'p'", "none"),
        ("asymcache:q=1", "no option 'q'", "lifespan_s"),
        ("asymcache:p", "'p' where option=value", "lifespan_s=30"),
        ("asymcache:p=", "'p=' where option=value", "lifespan_s=30"),
        ("asymcache:p=half", "p is 'half', expected a finite number", None),
        ("asymcache:p=nan", "p is 'nan'", None),
        ("asymcache:p=1", "p is 1.0", "0 < p < 1"),
        ("asymcache:p=.1,p=.2", "gives p twice", None),
        ("asymcache:lifespan_s=-1", "lifespan_s is -1.0", "lifespan_s >= 0"),
        ("asymcache:online_lambda=maybe", "expected true or false", None),
        ("return-index:reuse=tail", "reuse is 'tail', expected prefix or holes", None),
    ],
)
def test_a_bad_spec_is_refused(spec: str, said: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match="nothing was started") as error:
        make_policy(spec, COST, 8)
    assert said in error.value.message
    assert hint is None or hint in (error.value.hint or "")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ttl", "does not stand in front of another policy"),
        ("lru+asymcache", "lru is no retention layer"),
        ("ttl+nothing", "unknown policy 'nothing'"),
        ("ttl:tau=3+lru", "policy 'ttl' has no option 'tau'"),
        ("ttl:share=2+lru", "share 2.0"),
        ("ttl+ttl", "does not stand in front"),
    ],
)
def test_layers_stand_in_front_of_policies(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        make_policy(spec, COST, 8)


def test_a_spec_says_what_the_host_may_reuse() -> None:
    assert make_policy("return-index", COST, 8).reuse == "holes"
    assert make_policy("ttl+return-index:reuse=prefix", COST, 8).reuse == "prefix"


def test_layers_can_be_stacked() -> None:
    policy = make_policy("ttl:tau_s=5+ttl:tau_s=1+asymcache:p=0.9", COST, 8)
    assert (policy.name, policy.reuse) == ("ttl+ttl+asymcache", "holes")


def test_who_serves_takes_no_oracle_whatever_stands_before_it() -> None:
    assert make_online_policy("ttl+lru", COST, 8).needs == frozenset()
    for spec in ("belady", "ttl+belady-compute", "ttl+continuum-oracle+lru"):
        with pytest.raises(ConfigError, match="which only a recorded trace tells"):
            make_online_policy(spec, COST, 8)


def test_a_layer_says_whom_any_layer_behind_it_keeps() -> None:
    context = Context("c", "j", standing=Standing.TOOL)
    policy = make_policy("continuum-never+ttl:tau_s=5+lru", COST, 8)
    assert isinstance(policy, Retains) and not policy.retains(context)
    policy.observe(ContextChanged(context), 0.0)
    assert policy.retains(context)
