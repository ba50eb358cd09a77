"""What the router ranks by: costs, equal ones, homes, and what other ingresses have sent."""

import math

from hypothesis import given
from hypothesis import strategies as st

from agentcache.service.routing.call import Plan
from agentcache.service.routing.costs import TIE, Ledger, Rates, choose, elsewhere, ranked, rates

NAMES = ("a", "b", "c", "d")


def test_rebuilding_costs_what_is_not_there() -> None:
    rate = Rates(c_lin=2.0, c_att=0.5)
    assert rate.rebuild_s(10, 0) == 20 + 50
    assert rate.rebuild_s(10, 4) == 12 + 0.5 * (100 - 16)
    assert rate.rebuild_s(10, 10) == rate.rebuild_s(10, 99) == 0
    assert rates({}) is None and rates({"rates": (1.0, 2.0)}) == Rates(1.0, 2.0)


def test_only_requests_without_a_first_token_are_waited_for() -> None:
    ledger = Ledger()
    ledger.open["1"] = Plan(replica="a", rebuild_s=2.0)
    ledger.open["2"] = Plan(replica="a", rebuild_s=3.0)
    ledger.open["3"] = Plan(replica="b", rebuild_s=5.0)
    ledger.open["4"] = Plan(rebuild_s=9.0)
    assert dict(ledger.waiting_s()) == {"a": 5.0, "b": 5.0}
    ledger.open["2"].started = True
    assert dict(ledger.waiting_s()) == {"a": 2.0, "b": 5.0}


def test_all_open_requests_of_a_replica_are_counted() -> None:
    ledger = Ledger({"1": Plan(replica="a"), "2": Plan(replica="a", started=True), "3": Plan(replica="b"), "4": Plan()})
    assert ledger.requests() == {"a": 2, "b": 1}


def test_what_waits_elsewhere_is_that_of_other_ingresses() -> None:
    stats = {"waiting_s": {"mine": 4.0, "x": 1.0, "y": 2.0}, "open": {"mine": 1, "x": 5}}
    assert elsewhere(stats, "waiting_s", "mine") == 3.0
    assert elsewhere(stats, "open", "mine") == 5
    assert elsewhere({}, "open", "mine") == elsewhere({"open": 3}, "open", "mine") == 0.0


def test_a_rebuild_costs_those_who_are_there_too() -> None:
    speeds = {"home": Rates(1.0), "away": Rates(1.0)}

    def chosen(wait_s: float, others: int) -> str | None:
        plan = Plan(tokens=100, resident={"home": 90}, home="home")
        choose(plan, {"home": wait_s}, {"away": others}, speeds)
        assert plan.rebuild_s == (10.0 if plan.replica == "home" else 100.0)
        return plan.replica

    assert chosen(80.0, 0) == "home"
    assert chosen(120.0, 0) == "away"  # where it is in nobody's way
    assert chosen(120.0, 1) == "home"
    assert chosen(250.0, 1) == "away"


def test_a_replica_that_has_not_said_how_fast_it_is_is_as_fast_as_another() -> None:
    plan = Plan(tokens=100, home="new")
    assert choose(plan, {}, {}, {"old": Rates(2.0), "new": None}) == [["new"], ["old"]]
    assert plan.rebuild_s == 200.0
    assert choose(Plan(tokens=1), {}, {}, {}) == []


def test_the_cheapest_is_first() -> None:
    assert ranked(Plan(), {"a": 3.0, "b": 1.0, "c": 2.0}) == [["b"], ["c"], ["a"]]


def test_the_home_wins_ties_only() -> None:
    assert ranked(Plan(home="b"), {"a": 1.0, "b": 1.0 + TIE / 2}) == [["b"], ["a"]]
    assert ranked(Plan(home="b"), {"a": 1.0, "b": 1.5}) == [["a"], ["b"]]


def test_jobs_without_a_home_spread() -> None:
    firsts = [ranked(Plan(job=f"job {n}"), dict.fromkeys(NAMES, 1.0))[0][0] for n in range(400)]
    assert all(60 < firsts.count(name) < 140 for name in NAMES)
    assert firsts == [ranked(Plan(job=f"job {n}"), dict.fromkeys(NAMES, 1.0))[0][0] for n in range(400)]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e6)),
    st.sampled_from((None, *NAMES)),
    st.frozensets(st.sampled_from(NAMES)),
)
def test_every_replica_is_in_one_rank_and_ranks_grow(
    costs: dict[str, float], home: str | None, avoid: frozenset[str]
) -> None:
    ranks = ranked(Plan(home=home, avoid=avoid), costs)
    assert sorted(name for rank in ranks for name in rank) == sorted(costs)
    assert all(ranks)
    wanted = [name for rank in ranks for name in rank if name not in avoid]
    best = min((costs[name] for name in wanted), default=math.inf)
    assert not wanted or costs[wanted[0]] <= best * (1 + TIE)
    assert [name in avoid for rank in ranks for name in rank] == sorted(name in avoid for name in costs)
