"""Leases in front of a policy: who is kept, for how long, who yields first, and what senseless claims do."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.model import (
    Block,
    JobFinished,
    PoolResized,
    RetainAsked,
    Stop,
    ToolStarted,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy import Policy, make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.residency import Residency
from agentcache_continuum.pauses import LONGEST_S
from agentcache_continuum.programs import ProgramLeases

COST = CostModel(CostProfile(c_lin=0.1, c_att=1e-6), 16)  # a block takes 1.6 s and a little more


class Bench:
    """A residency over a layer, and turns that hold the blocks `job:0`, `job:1`, ...; the first `common` are shared."""

    common = 0

    def __init__(self, spec: str | Policy, pool: int = 64, admission: str = "fcfs") -> None:
        policy = make_policy(spec, COST, pool) if isinstance(spec, str) else spec
        assert isinstance(policy, ProgramLeases)
        self.policy = policy
        self.core = Residency(policy, pool, admission=parse_admission(admission))
        self.blocks: dict[Any, Block] = {}
        self.names = 0
        self.using: dict[str, tuple[str, ...]] = {}
        self.references: Counter[str] = Counter()

    def keys(self, job: str, length: int) -> tuple[str, ...]:
        return tuple(f"{'all' if index < self.common else job}:{index}" for index in range(length))

    def arrive(self, job: str, length: int, now: float, tool: str | None = None, context: str | None = None) -> str:
        self.names += 1
        turn = f"turn {self.names}"
        self.core.observe(TurnArrived(turn, self.keys(job, length), job, context or job, tool), now)
        return turn

    def start(self, turn: str, job: str, length: int, now: float) -> None:
        held = [block for key in self.keys(job, length) if (block := self.blocks.get(key)) and block in self.core]
        self.core.acquire(held, now)
        self.using[turn] = self.keys(job, length)
        self.references.update(self.using[turn])
        self.core.observe(TurnScheduled(turn, 16 * length, 16 * len(held), 0, 0), now)

    def finish(self, turn: str, job: str, length: int, now: float, tool: str | None = "bash", **said: Any) -> None:
        keys = self.keys(job, length)
        stop = Stop.TOOL_USE if tool else Stop.END_TURN
        self.core.observe(TurnFinished(turn, keys, stop, tool, **said), now)
        self.give_back(turn, job, length, now)

    def give_back(self, turn: str, job: str, length: int, now: float) -> None:
        self.references.subtract(self.using.pop(turn, ()))
        made = []
        for index, key in reversed(list(enumerate(self.keys(job, length)))):
            block = self.blocks.get(key)
            if block is None:
                block = self.blocks[key] = Block(len(self.blocks), key, index)
            if block not in self.core and not self.references[key]:
                made.append(block)
        self.core.release(made, now)

    def turn(self, job: str, length: int, now: float, seconds: float = 1.0, **said: Any) -> None:
        """A whole turn, from `now` on."""
        turn = self.arrive(job, length, now)
        self.start(turn, job, length, now)
        self.finish(turn, job, length, now + seconds, **said)

    def evict(self, need: int, now: float) -> list[Any]:
        taken = self.core.victims(need, now) or []
        for block in taken:
            del self.blocks[block.key]
        self.core.check()
        return [block.key for block in taken]


def owners(keys: list[Any]) -> set[str]:
    return {key.partition(":")[0] for key in keys}


def test_a_lease_keeps_a_context_until_its_time_is_over_and_not_a_moment_less() -> None:
    bench = Bench("continuum-fixed:s=10+lru")
    bench.turn("kept", 4, 0.0)
    bench.turn("answered", 4, 5.0, tool=None)  # younger, but nothing was called
    assert owners(bench.evict(1, 11.0)) == {"answered"}, "11.0 is the end itself, which is inside"
    assert owners(bench.evict(1, 11.001)) == {"kept"}, "now it is only the older one"
    assert bench.policy.leases.expired == 1


def test_under_pressure_the_program_that_arrived_latest_yields_first_and_only_as_far_as_needed() -> None:
    bench = Bench("continuum-always+lru")
    for number, job in enumerate(("first", "second", "third")):
        bench.turn(job, 4, float(number))
    bench.turn("second", 4, 10.0)  # the youngest lease, but not the youngest program
    assert owners(bench.evict(4, 20.0)) == {"third"}
    assert owners(bench.evict(2, 20.0)) == {"second"}
    assert (bench.policy.leases.pressed, bench.policy.leases.granted) == (2, 4)
    assert bench.policy.retains(bench.core.contexts.get("first"))


def test_when_a_lease_ends_the_inner_policy_says_what_of_a_context_stays() -> None:
    for inner, gone in (("lru", "tail"), ("lru-holes", "head"), ("asymcache", "head"), ("return-index", "head")):
        bench = Bench(f"continuum-fixed:s=1+{inner}")
        bench.turn("a", 8, 0.0)
        taken = bench.evict(3, 60.0)
        expected = ["a:7", "a:6", "a:5"] if gone == "tail" else ["a:0", "a:1", "a:2"]
        assert taken == expected, inner
        assert len(bench.core) == 5, "the rest of the context survives its lease"


def test_a_waiting_turn_keeps_its_own_lease_and_no_other_branch_s() -> None:
    bench = Bench("continuum-fixed:s=10+lru")
    for branch in ("a", "b"):
        turn = bench.arrive(branch, 4, 0.0, context=branch)
        bench.start(turn, branch, 4, 0.0)
        bench.finish(turn, branch, 4, 1.0)
    waiting = bench.arrive("a", 5, 5.0)
    assert owners(bench.evict(1, 100.0)) == {"b"}
    a = bench.core.contexts.get("a")
    assert a and bench.policy.retains(a)
    bench.start(waiting, "a", 4, 100.0)
    assert not bench.policy.retains(a), "its blocks are the turn's"
    assert bench.policy.leases.taken_up == 1


def test_who_returns_to_a_kept_context_goes_first() -> None:
    bench = Bench("continuum-fixed:s=100+lru", admission="program-fcfs+retained")
    bench.turn("old", 4, 0.0, tool=None)
    bench.turn("young", 4, 1.0)
    old, young = bench.arrive("old", 5, 10.0), bench.arrive("young", 5, 10.0)
    assert bench.core.rank(young) < bench.core.rank(old)
    assert Bench("continuum-never+lru", admission="program").core.admission is not None


def test_leases_hold_a_share_of_the_pool() -> None:
    bench = Bench("continuum-always:share=0.5+lru", pool=16)
    bench.turn("first", 6, 0.0)
    bench.turn("second", 6, 1.0)
    assert owners(bench.evict(6, 2.0)) == {"second"}, "8 blocks is all that leases may hold"
    bench.core.observe(PoolResized(8), 3.0)
    assert not bench.policy.retains(bench.core.contexts.get("first"))
    with pytest.raises(ConfigError, match="share is 2"):
        make_policy("continuum:share=2+lru", COST, 8)


def test_leases_that_were_taken_up_are_not_remembered_for_ever() -> None:
    bench = Bench("continuum-fixed:s=1000000+lru")
    for number in range(500):
        bench.turn("a", 2, 2.0 * number)
    assert len(bench.policy._ends) <= 100
    bench.core.check()


def test_an_aborted_turn_leaves_no_lease_behind() -> None:
    bench = Bench("continuum-always+lru")
    bench.turn("a", 4, 0.0)
    turn = bench.arrive("a", 5, 2.0)
    bench.start(turn, "a", 4, 2.0)
    bench.core.observe(TurnAborted(turn), 3.0)
    bench.give_back(turn, "a", 4, 3.0)
    assert bench.policy.leases.granted == 1
    assert not bench.policy.retains(bench.core.contexts.get("a"))


def test_the_rule_learns_gaps_waits_and_lengths() -> None:
    bench = Bench("continuum:k=0+lru")
    policy: Any = bench.policy
    bench.turn("a", 4, 0.0)  # cold: ln(4 * 1.6 s) = 1.86 s
    bench.turn("a", 5, 2.0)  # returns 1 s later, in time
    assert list(policy.rule.durations.of["bash"]) == [1.0]
    assert (policy.leases.taken_up, len(policy.rule.waits)) == (1, 0)
    bench.evict(5, 50.0)
    turn = bench.arrive("a", 6, 60.0)
    bench.start(turn, "a", 6, 64.0)  # its context was gone
    assert list(policy.rule.waits) == [4.0]
    bench.finish(turn, "a", 6, 65.0, tool=None, last=True)
    assert list(policy.rule.programs) == [3]
    bench.core.observe(JobFinished("a"), 66.0)
    assert list(policy.rule.programs) == [3], "an end that is told twice is one"


def test_a_person_who_went_away_says_nothing_about_a_tool() -> None:
    bench = Bench("continuum+lru")
    bench.turn("a", 4, 0.0)
    bench.turn("a", 4, 2 * LONGEST_S)
    assert not bench.policy.rule.durations.all  # type: ignore[attr-defined]


def test_senseless_claims_are_counted_once_each_and_break_nothing() -> None:
    bench = Bench("continuum-fixed:s=10+return-index")
    conflicts = bench.policy.conflicts
    turn = bench.arrive("a", 4, 0.0, tool="grep")  # nobody has called it
    assert conflicts.unknown_tool == 1
    bench.start(turn, "a", 4, 0.0)
    twin = bench.arrive("a", 4, 0.5)
    assert conflicts.concurrent_turns == 1
    bench.finish(turn, "a", 4, 1.0)
    assert bench.policy.leases.granted == 0, "a turn of this context is still open"
    bench.finish(twin, "a", 4, 1.0, last=True)
    bench.turn("a", 4, 2.0)
    assert conflicts.turn_after_end == 1
    before = conflicts.backward_time
    bench.core.observe(TurnArrived("t", bench.keys("b", 2), "b"), 1.0)
    assert conflicts.backward_time > before
    bench.core.observe(ToolStarted("a", "bash", -3.0), 3.0)
    bench.core.observe(RetainAsked("a", float("nan")), 3.0)
    assert conflicts.negative_duration == 2
    bench.core.observe(TurnFinished("nobody's", ()), 4.0)
    bench.core.check()
    assert set(bench.policy.counts()) == {"conflicts", "leases"}


def test_the_oracle_keeps_exactly_as_long_as_the_pause() -> None:
    bench = Bench("continuum-oracle+lru")
    policy: Any = bench.policy
    with pytest.raises(ConfigError, match="not told the pauses"):
        Bench("continuum-oracle+lru").turn("a", 4, 0.0)
    policy.foresee("pauses", {"a": [5.0, 1000.0, None]})
    bench.turn("a", 4, 0.0)  # 6.4 s to rebuild
    assert policy.leases.granted == 1
    turn = bench.arrive("a", 4, 6.0)
    bench.start(turn, "a", 4, 6.0)
    assert policy.leases.taken_up == 1
    bench.finish(turn, "a", 4, 7.0)
    assert (policy.leases.granted, policy.leases.refused) == (1, 1)


class Machine(RuleBasedStateMachine):
    """Random jobs over a small pool: every book balances, and what is asked for is there."""

    spec = "continuum-fixed:s=5,share=0.6+return-index"

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.spec, pool=24, admission="program-fcfs+retained")
        self.bench.common = 2
        self.open: list[tuple[str, str, int, bool]] = []
        self.running: set[str] = set()
        self.now = 0.0

    @rule(seconds=st.sampled_from([-2.0, 0.0, 1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now = max(self.now + seconds, 0.0)

    @rule(job=st.sampled_from("abcd"), length=st.integers(1, 6), tool=st.sampled_from([None, "bash", "x"]))
    def arrive(self, job: str, length: int, tool: str | None) -> None:
        if not any(j == job for _, j, _, _ in self.open):
            turn = self.bench.arrive(job, length, self.now, tool)
            self.open.append((turn, job, length, False))

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        queued = [entry for entry in self.open if not entry[3]]
        if queued:
            entry = data.draw(st.sampled_from(queued))
            self.bench.start(entry[0], entry[1], entry[2], self.now)
            self.open[self.open.index(entry)] = (*entry[:3], True)

    @rule(data=st.data(), tool=st.sampled_from([None, "bash"]), last=st.sampled_from([None, True, False]))
    def finish(self, data: st.DataObject, tool: str | None, last: bool | None) -> None:
        started = [entry for entry in self.open if entry[3]]
        if started:
            entry = data.draw(st.sampled_from(started))
            self.open.remove(entry)
            self.bench.finish(*entry[:3], self.now, tool, last=last)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.open:
            entry = data.draw(st.sampled_from(self.open))
            self.open.remove(entry)
            self.bench.core.observe(TurnAborted(entry[0]), self.now)
            if entry[3]:
                self.bench.give_back(*entry[:3], self.now)

    @rule(job=st.sampled_from("abcd"))
    def end(self, job: str) -> None:
        self.bench.core.observe(JobFinished(job), self.now)

    @rule(need=st.integers(0, 20))
    def evict(self, need: int) -> None:
        there = len(self.bench.core)
        taken = self.bench.evict(need, self.now)
        assert len(taken) == (need if need <= there else 0), "whatever is evictable can be had"

    @invariant()
    def balances(self) -> None:
        self.bench.core.check()


@pytest.mark.parametrize("spec", [Machine.spec, "continuum:k=2+lru", "continuum-always+asymcache"])
def test_random_histories_keep_the_books(spec: str) -> None:
    machine = type("M", (Machine,), {"spec": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40))
