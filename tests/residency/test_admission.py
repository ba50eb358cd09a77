"""Admission over the residency: holds, joins, orders and faults by hand."""

from typing import Any

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import CheckFailed
from agentcache.model import (
    BlocksStored,
    Hold,
    Join,
    PoolResized,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
)
from agentcache.model import TurnScheduled as Scheduled
from agentcache.policy import make_policy
from agentcache.policy.admission.footing import Footing
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.residency import Residency
from agentcache.residency.admission import WorkingSetAdmission

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)


def residency(capacity: int = 100, **rule: Any) -> Residency:
    return Residency(
        make_policy("lru-holes", COST, capacity), capacity, admission=WorkingSetConfig(**{"headroom": 0.0, **rule})
    )


def chain(job: str, blocks: int) -> tuple[str, ...]:
    return tuple(f"{job}-{i}" for i in range(blocks))


def arrive(core: Residency, job: str, turn: str, blocks: int, now: float, order_key: int = 0) -> None:
    core.observe(TurnArrived(turn, chain(job, blocks), job, order_key=order_key), now)


def finish(core: Residency, job: str, turn: str, blocks: int, now: float, **more: Any) -> None:
    core.observe(Scheduled(turn, blocks, 0, 0, 0), now)
    core.observe(TurnFinished(turn, chain(job, blocks), **{"stop": Stop.TOOL_USE, **more}), now)


def rule_of(core: Residency) -> WorkingSetAdmission:
    assert core.admission
    return core.admission


def test_the_third_job_waits_until_a_pause_outlasts_its_release() -> None:
    core = residency(release_s=10)
    for number, job in enumerate("abc"):
        arrive(core, job, f"{job}0", 45, float(number))
    decisions = core.admit(3.0)
    assert [d for d in decisions if isinstance(d, Join)] == [Join("a"), Join("b")]
    (hold,) = (d for d in decisions if isinstance(d, Hold))
    assert hold.job == "c"
    assert "needs 45 blocks, 90 of 100 are taken" in hold.reason
    assert core.may_run("a0") and not core.may_run("c0")
    assert [context.held for context in core.contexts] == [False, False, True]
    core.observe(Scheduled("a0", 1, 0, 0, 0), 3.0)
    core.observe(TurnFinished("a0", chain("a", 45), Stop.TOOL_USE), 5.0)
    assert core.admit(14.9) == [], "a is expected back and keeps its place"
    assert core.admit(15.0) == [Join("c")]
    assert not any(context.held for context in core.contexts)
    arrive(core, "a", "a1", 46, 16.0)
    assert [d.job for d in core.admit(16.0)] == ["a", "c"], "back in its place, before c"
    assert not core.may_run("c0")


def test_an_ended_job_makes_room_at_once() -> None:
    core = residency()
    arrive(core, "a", "a0", 60, 0.0)
    arrive(core, "b", "b0", 60, 0.0)
    core.admit(0.0)
    assert not core.may_run("b0")
    core.observe(TurnFinished("a0", chain("a", 60), Stop.END_TURN, last=True), 1.0)
    core.admit(1.0)
    assert core.may_run("b0")


def test_an_idle_engine_lets_the_first_waiting_turn_run() -> None:
    core = residency()
    arrive(core, "a", "a0", 60, 0.0)
    arrive(core, "b", "b0", 60, 0.0)
    core.admit(0.0)
    core.observe(TurnFinished("a0", chain("a", 60), Stop.TOOL_USE), 1.0)
    core.admit(1.0)
    assert core.may_run("b0"), "a is paused and nobody else could run"


def test_a_hold_has_a_bound() -> None:
    core = residency(max_hold_s=20)
    arrive(core, "a", "a0", 60, 0.0)
    arrive(core, "b", "b0", 60, 0.0)
    core.admit(0.0)
    assert core.admit(20.0) == []
    core.admit(20.1)
    assert core.may_run("b0")


def test_without_admission_everything_may_run() -> None:
    core = Residency(make_policy("lru", COST, 10), 10)
    arrive(core, "a", "a0", 60, 0.0)
    assert core.admit(0.0) == []
    assert core.may_run("a0") and core.may_run("nobody")
    assert core.rank("a0") == core.rank("nobody") == ()
    core.stalled()


def test_a_hold_is_told_and_counted_with_its_seconds() -> None:
    core = residency(max_hold_s=600)
    admission, ends = rule_of(core), list[tuple[str, str, float]]()
    admission.on_hold_end = lambda *end: ends.append(end)
    for job in "abcd":
        arrive(core, job, f"{job}0", 60, 0.0)
    core.admit(0.0)
    assert admission.held_turns == 3
    assert admission.held_s("b0", 4.0) == 4.0
    core.observe(TurnAborted("d0"), 5.0)  # the client left
    finish(core, "a", "a0", 60, 10.0, last=True)
    core.admit(10.0)
    core.admit(601.0)
    assert ends == [("d0", "aborted", 5.0), ("b0", "joined", 10.0), ("c0", "bound", 601.0)]
    assert admission.held_turns == 0
    assert admission.held_s("b0", 20.0) == 10.0
    assert admission.held_s("nobody", 20.0) == 0.0
    counts = admission.counts
    assert (counts.holds, counts.joins, counts.expired, counts.aborted, counts.held_s) == (3, 1, 1, 1, 616.0)


def test_an_unknown_pause_is_released_after_a_minute() -> None:
    core = residency()
    arrive(core, "a", "a0", 60, 0.0)
    finish(core, "a", "a0", 60, 0.0)
    arrive(core, "b", "b0", 20, 1.0)
    core.observe(Scheduled("b0", 20, 0, 0, 0), 1.0)
    arrive(core, "c", "c0", 50, 2.0)
    core.admit(59.9)
    assert core.may_run("b0") and not core.may_run("c0")
    core.admit(60.0)
    assert core.may_run("c0")
    assert rule_of(core).counts.released == 1


def test_a_pause_is_released_when_those_like_it_have_returned() -> None:
    core = residency(1000)
    now = 0.0
    for number in range(60):  # pauses of five seconds, and whoever stays away for longer never returns
        arrive(core, "a", f"a{number}", 10, now)
        finish(core, "a", f"a{number}", 10, now)
        now += 5.0
    assert core.survival.ready
    arrive(core, "a", "again", 10, now)
    finish(core, "a", "again", 10, now)
    core.admit(now + 1.0)
    assert "a" in rule_of(core).choice.members
    core.admit(now + 20.0)
    assert "a" not in rule_of(core).choice.members


@pytest.mark.parametrize(
    ("admission", "order"),
    [
        ("program", ["urgent", "old again", "new"]),
        ("priority", ["urgent", "new", "old again"]),
        ("working-set", ["urgent", "old again", "new"]),
        ("program-fcfs+retained", ["urgent", "old again", "new"]),
        ("resident-first", ["urgent", "old again", "new"]),
    ],
)
def test_orders(admission: str, order: list[str]) -> None:
    core = residency()
    core.admission = WorkingSetAdmission(parse_admission(admission), 100, core.contexts)  # type: ignore[arg-type]
    arrive(core, "old", "old first", 10, 0.0)
    core.observe(BlocksStored(chain("old", 10)), 0.0)
    finish(core, "old", "old first", 10, 0.0)
    arrive(core, "new", "new", 10, 1.0)
    arrive(core, "old", "old again", 12, 2.0)
    arrive(core, "urgent", "urgent", 10, 3.0, order_key=-1)
    assert sorted(["new", "old again", "urgent"], key=core.rank) == order
    assert core.rank("nobody") == ()
    core.check()


def test_a_preempted_turn_resumes_first_and_retained_contexts_before_older_jobs() -> None:
    core = residency()
    core.admission = WorkingSetAdmission(parse_admission("program-fcfs+retained"), 100, core.contexts)  # type: ignore[arg-type]
    for job in "abc":
        arrive(core, job, f"{job}0", 10, 0.0)
    core.observe(Scheduled("c0", 10, 0, 0, 0), 1.0)
    core.observe(TurnPreempted("c0"), 2.0)
    core.admission.is_retained = lambda context: context.job == "b"
    leases = iter([0, 0, 1])
    core.admission.retained_version = lambda: next(leases)
    assert sorted(["a0", "b0", "c0"], key=core.rank) == ["c0", "b0", "a0"]
    version = core.admission.version
    core.admit(3.0)
    core.admit(4.0)
    assert core.admission.version == version, "nobody's lease has run out"
    core.admit(5.0)
    assert core.admission.version > version, "leases run out by themselves"


def test_a_rank_changes_only_with_the_version() -> None:
    core = residency()
    core.admission = WorkingSetAdmission(parse_admission("resident-first"), 100, core.contexts)  # type: ignore[arg-type]
    arrive(core, "a", "a0", 4, 0.0)
    version, rank = core.admission.version, core.rank("a0")
    core.observe(BlocksStored(("other",)), 1.0)
    assert core.admission.version == version
    core.observe(BlocksStored(chain("a", 2)), 1.0)
    assert core.admission.version > version
    assert core.rank("a0") < rank


# Faults


def test_an_end_that_was_none_takes_its_place_again() -> None:
    core = residency()
    arrive(core, "a", "a0", 60, 0.0)
    finish(core, "a", "a0", 60, 1.0, last=True)
    arrive(core, "b", "b0", 60, 2.0)
    core.admit(2.0)
    assert core.may_run("b0"), "a has said that it is over"
    arrive(core, "a", "a1", 61, 3.0)
    core.admit(3.0)
    assert rule_of(core).counts.false_ends == 1
    assert core.may_run("a1")
    core.check()


def test_one_id_of_two_clients_counts_the_blocks_of_both() -> None:
    core = residency()
    core.observe(TurnArrived("a0", chain("mine", 40), "a", "a"), 0.0)
    core.observe(TurnArrived("a1", chain("theirs", 40), "a", "a"), 0.0)
    arrive(core, "b", "b0", 30, 1.0)
    core.admit(1.0)
    assert rule_of(core).counts.clashes == 1
    core.observe(TurnArrived("retry", chain("theirs", 40), "a", "a"), 0.5)
    core.observe(TurnAborted("retry"), 0.5)
    assert rule_of(core).counts.clashes == 1, "a retry is none"
    assert rule_of(core).choice.used_blocks == 80
    assert not core.may_run("b0")
    core.observe(TurnFinished("a0", chain("mine", 40), Stop.TOOL_USE), 2.0)
    core.observe(TurnFinished("a1", chain("theirs", 40), Stop.TOOL_USE, last=True), 3.0)
    core.admit(3.0)
    assert core.may_run("b0")
    core.check()


def test_what_a_turn_computed_counts_until_the_next_one() -> None:
    footing = Footing(key_blocks=1, context_blocks=10, left_blocks=5, left_keys=21)
    core = Residency(make_policy("lru", COST, 1000), 1000, admission=WorkingSetConfig(headroom=0.0), footing=footing)

    def used() -> int:
        core.admit(0.0)
        core.check()
        return rule_of(core).choice.used_blocks

    arrive(core, "a", "a0", 20, 0.0)
    assert used() == 20 + 10 + 5 * 20, "a first turn computes all of its prompt, as far as is known"
    core.observe(Scheduled("a0", 330, 160, 0, 0), 0.0)
    assert used() == 20 + 10 + 5 * 11, "but 160 of its 330 tokens are resident"
    core.observe(TurnPreempted("a0"), 0.0)
    assert used() == 20 + 10 + 5 * 11
    core.observe(Scheduled("a0", 0, 9, 0, 0), 0.0)
    assert used() == 20 + 10, "whatever a host says"
    core.observe(Scheduled("a0", 330, 0, 0, 0), 0.0)
    core.observe(TurnFinished("a0", chain("a", 22), Stop.TOOL_USE), 0.0)
    assert used() == (22 + 2) + 10 + 5 * 21, (
        "the reply's keys are computed too, as many again expected; 21 leave something"
    )
    arrive(core, "a", "a1", 25, 0.0)
    assert used() == (25 + 2) + 10 + 5 * 3, "what it has beyond its context"
    core.observe(TurnAborted("a1"), 0.0)
    assert used() == 0, "who leaves while it waits is not expected back"


def test_a_pool_that_shrinks_holds_whom_it_no_longer_takes() -> None:
    core = residency()
    for job in "ab":
        arrive(core, job, f"{job}0", 45, 0.0)
    core.admit(0.0)
    assert core.may_run("b0")
    core.observe(PoolResized(60), 1.0)
    assert [(type(d), d.job) for d in core.admit(1.0)] == [(Hold, "b")]
    assert not core.may_run("b0")
    core.observe(PoolResized(30), 2.0)
    core.admit(2.0)
    assert core.may_run("a0"), "larger than what is left: it runs alone"
    core.observe(PoolResized(100), 3.0)
    core.admit(3.0)
    assert core.may_run("b0")
    assert (rule_of(core).counts.resizes, rule_of(core).counts.alone) == (3, 1)


def test_a_client_that_vanishes_while_held_leaves_nothing_behind() -> None:
    core = residency()
    for job, blocks in (("a", 60), ("b", 60), ("c", 30)):
        arrive(core, job, f"{job}0", blocks, 0.0)
    core.admit(0.0)
    assert not core.may_run("b0") and not core.may_run("c0")
    core.observe(TurnAborted("b0"), 1.0)
    core.stalled()  # nobody that is held is left of those that the last choice knew first
    core.admit(1.0)
    assert core.may_run("c0"), "b's prompt was never computed, and takes no place"
    assert rule_of(core).choice.used_blocks == 90


def test_an_urgent_turn_lifts_its_job_as_long_as_it_is_open() -> None:
    core = residency()
    arrive(core, "a", "a0", 60, 0.0)
    arrive(core, "b", "b0", 60, 0.0, order_key=-1)
    core.admit(0.0)
    assert core.may_run("b0") and not core.may_run("a0")
    finish(core, "b", "b0", 60, 1.0)
    arrive(core, "b", "b1", 60, 2.0)
    core.admit(2.0)
    assert core.may_run("a0") and not core.may_run("b1")


@pytest.mark.parametrize("admission", ["program", "resident-first", "working-set"])
def test_jobs_that_are_over_leave_no_state(admission: str) -> None:
    core = Residency(make_policy("lru", COST, 100), 100, max_contexts=10)
    core.admission = WorkingSetAdmission(parse_admission(admission), 100, core.contexts)  # type: ignore[arg-type]
    for number in range(300):
        arrive(core, f"j{number}", f"t{number}", 5, float(number))
        core.admit(float(number))
        finish(core, f"j{number}", f"t{number}", 5, float(number), last=number % 2 == 0)
    core.admit(1000.0)
    assert not core.admission._live.by_name
    assert len(core.admission._live._places) < 80
    core.check()


def test_members_that_never_run_hold_nobody_for_long() -> None:
    core = residency()
    for job in "abc":
        arrive(core, job, f"{job}0", 60, 0.0)
    core.admit(0.0)
    assert not core.may_run("b0")
    core.stalled()
    core.stalled()
    core.admit(1.0)
    assert core.may_run("b0") and not core.may_run("c0"), "one at a time"
    assert rule_of(core).counts.idle == 1
    finish(core, "b", "b0", 60, 2.0, last=True)
    core.stalled()
    core.admit(2.0)
    assert core.may_run("c0")


def test_a_job_that_never_returns_is_forgotten_with_its_place() -> None:
    core = Residency(make_policy("lru", COST, 100), 100, max_contexts=10, admission=WorkingSetConfig())
    for number in range(500):
        arrive(core, f"j{number}", f"t{number}", 1, float(number))
        core.admit(float(number))
        finish(core, f"j{number}", f"t{number}", 1, float(number))
    assert len(rule_of(core)._live._places) < 80, "places go with the contexts, once in a while"
    core.check()


def test_the_check_finds_a_lost_turn() -> None:
    core = residency()
    arrive(core, "a", "a0", 1, 0.0)
    core.admit(0.0)
    rule_of(core)._live.turns.clear()
    with pytest.raises(CheckFailed, match="1 turns"):
        rule_of(core).check()


def test_an_order_without_footprints_remembers_no_jobs_of_turns_that_are_over() -> None:
    core = Residency(make_policy("lru-holes", COST, 100), 100, max_contexts=8, admission=parse_admission("program"))
    for number in range(500):
        arrive(core, f"job{number}", f"turn{number}", 2, float(number))
        core.admit(float(number))
        finish(core, f"job{number}", f"turn{number}", 2, number + 0.5)
    assert not rule_of(core)._changed_jobs
    assert len(rule_of(core)._live._places) < 100
    core.check()
