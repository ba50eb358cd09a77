"""Every spec that a hint, a docstring, a page or a configuration names can be built, and runs."""

import re
from functools import cache
from pathlib import Path

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.policy import make_policy, names
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.residency import Residency
from agentcache.sim.queueing import Call, Engine

ROOT = Path(__file__).parent.parent
COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)
ANY = {"X": "lru", "N": "4", "S": "3"}
"""What stands for anything in a text, and what is put in its place here."""


@cache
def texts() -> str:
    places = ("agentcache", "integrations", "workloads", "scripts", "docs", "README.md", "CHANGELOG.md")
    files = [path for place in places for path in sorted((ROOT / place).rglob("*")) or [ROOT / place]]
    return "\n".join(path.read_text() for path in files if path.suffix in (".py", ".md", ".toml"))


def specs(known: list[str], values: str) -> list[str]:
    """What is written as a known name, with options after a colon or something more after a plus."""
    name = "(?:" + "|".join(sorted(map(re.escape, known), key=len, reverse=True)) + ")"
    options = rf"(?::{values}(?:,{values})*)"
    found = re.findall(rf"(?<![\w./+-])({name}{options}?(?:\+(?:{name}|X)(?![\w-]){options}?)*)", texts())
    return sorted({spec for spec in found if ":" in spec or "+" in spec})


OPTION = r"[a-z_]+=[\w.-]*\w"
POLICIES = specs(names(), OPTION)
ADMISSIONS = specs(list(BUILT), rf"(?:floor\.\w+=[\d.]+|{OPTION}|\d+|S\b)")


def test_the_texts_name_some() -> None:
    assert {"ttl+return-index", "continuum+X", "asymcache:lifespan_s=30,p=0.5"} <= set(POLICIES)
    assert {"fixed-release:60", "fixed-release:S"} <= set(ADMISSIONS)


def example(spec: str) -> str:
    return re.sub(r"\b[XNS]\b", lambda found: ANY[found[0]], spec)


@pytest.mark.parametrize("spec", POLICIES)
def test_a_policy_that_is_named_runs(spec: str) -> None:
    policy = make_policy(example(spec), COST, 16)
    if not policy.needs:
        runs(Residency(policy, 16))


@pytest.mark.parametrize("spec", ADMISSIONS)
def test_an_admission_that_is_named_runs(spec: str) -> None:
    runs(Residency(make_policy("lru", COST, 16), 16, admission=parse_admission(example(spec))))


def runs(core: Residency) -> None:
    sim, now = Engine(core, COST), 0.0
    for number in range(12):
        job, turn = f"job{number % 3}", number // 3
        keys = tuple(f"{job}:{index}" for index in range(4 + turn))
        sim.submit(Call(f"{job}/{turn}", 16 * len(keys), 4, keys, job, job), now)
        while sim.busy:
            now, _ = sim.step(now, float("inf"))
    sim.check()
    assert core.evicted_blocks
