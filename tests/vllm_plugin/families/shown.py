"""What each family's test asserts: stock vLLM's tokens at each level, with blocks evicted, turns preempted, aborted.

One programme a family: agents' jobs whose contexts do not fit together. What it has not met on either side, it has not
shown: so each side reused tokens, evicted blocks and lost running turns to preemption, a reset and an abort.
"""

from tests.vllm_plugin.families.drive import run
from tests.vllm_plugin.families.table import FAMILIES

LEVELS = ["admit", "order"]
"""Reuse behind holes is `agentcache verify`'s to show: its rows want a process in which no stock engine ran before."""
MET = ("cached", "evicted", "preempted", "aborted", "reset while it ran")


def tokens_are_those_of_stock_vllm(name: str) -> None:
    """At each level below holes; the highest of the family is what an engine picks by itself."""
    family = FAMILIES[name]
    outcomes = run(name, LEVELS)
    assert {side: outcome["level"] for side, outcome in outcomes.items()} == {"stock": None} | {x: x for x in LEVELS}
    for side, outcome in outcomes.items():
        assert outcome["groups"] == family.groups, side
        assert outcome["tokens"] > 0, side
        assert outcome["mismatches"] == 0, (side, outcome)
        assert all(outcome[what] > 0 for what in MET), (side, outcome)
        assert outcome["control"], f"{side}: content that is wrong was not seen"
        assert bool(outcome.get("drafted")) == bool(family.drafter), side
        assert bool(outcome.get("loads")) == bool(family.connector), side
        assert bool(outcome.get("late")) == (family.connector == "late"), side
        assert bool(outcome.get("failed loads")) == (family.connector == "failing"), side
    assert outcomes["admit"]["held"] > 0
