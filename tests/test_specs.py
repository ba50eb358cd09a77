"""The grammar of names with options, and what it says of everything else."""

import pytest

from agentcache.errors import ConfigError
from agentcache.specs import Spec, split_layers


def options(text: str, *known: str, first: str = "") -> dict[str, str]:
    return Spec("rule", text).options(known, first)


def test_a_name_with_options() -> None:
    assert Spec("rule", "lru").name == "lru" and options("lru") == {}
    spec = Spec("policy", "asymcache: lifespan_s = 3, p=0.5")
    assert spec.name == "asymcache"
    assert spec.options(["p", "lifespan_s"]) == {"lifespan_s": "3", "p": "0.5"}
    assert options("a:x=1,", "x") == {"x": "1"}


def test_the_first_option_may_go_without_its_name() -> None:
    assert options("fixed:60,b=1", "a", "b", first="a") == {"a": "60", "b": "1"}


def test_a_group_takes_any_member() -> None:
    assert options("w:floor.a=1,floor.b=2", "floor.TENANT") == {"floor.a": "1", "floor.b": "2"}


def test_layers_stand_in_front() -> None:
    assert split_layers("ttl:tau_s=1+ttl+lru") == ["ttl:tau_s=1", "ttl", "lru"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:y=1", "rule 'a' has no option 'y'; nothing was started\nhint: its options: x, floor.TENANT"),
        ("a:=1", "has no option ''"),
        ("a:60", "has no option '60'"),
        ("a:floor.=1", "has no option 'floor.'"),
        ("a:roof.b=1", "has no option 'roof.b'"),
        ("a:x", "rule 'a:x' has 'x' where option=value was expected"),
        ("a:x= ", "has 'x=' where option=value was expected"),
        ("a:x=1,x=2", "rule 'a:x=1,x=2' gives x twice; nothing was started"),
    ],
)
def test_other_options_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        options(text, "x", "floor.TENANT")
    assert said in str(error.value)


def test_values_are_read() -> None:
    spec = Spec("pauses", "normal:1,2", "nothing was done")
    assert spec.numbers("MU", "SIGMA") == [1.0, 2.0]
    assert spec.number("x", "1e3", least=0) == 1000.0
    assert spec.either("x", "true") and not spec.either("x", "off", "on", "off")
    for text in ("", "nan", "inf", "1s"):
        with pytest.raises(ConfigError, match=f"x is '{text}', expected a finite number; nothing was done"):
            spec.number("x", text)
    with pytest.raises(ConfigError, match="expected a finite number >= 0"):
        spec.number("x", "-1", least=0)
    with pytest.raises(ConfigError, match="expected normal:MU;"):
        spec.numbers("MU")
    with pytest.raises(ConfigError, match="expected on or off"):
        spec.either("x", "true", "on", "off")
