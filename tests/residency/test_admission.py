"""Admission over the residency: holds and joins by hand, and no job waits for ever whatever happens."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Hold, JobFinished, Join, Stop, TurnAborted, TurnArrived, TurnFinished, TurnPreempted
from agentcache.model import TurnScheduled as Scheduled
from agentcache.policy import make_policy
from agentcache.policy.working_set import WorkingSetConfig
from agentcache.residency import Residency

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)


def residency(capacity: int = 100, **rule: float) -> Residency:
    return Residency(
        make_policy("lru-holes", COST, capacity), capacity, admission=WorkingSetConfig(**{"headroom": 0.0, **rule})
    )


def chain(job: str, blocks: int) -> tuple[str, ...]:
    return tuple(f"{job}-{i}" for i in range(blocks))


def arrive(core: Residency, job: str, turn: str, blocks: int, now: float) -> None:
    core.observe(TurnArrived(turn, chain(job, blocks), job), now)


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
    core.observe(Scheduled("a0", 1, 0, 0, 0), 3.0)
    core.observe(TurnFinished("a0", chain("a", 45), Stop.TOOL_USE), 5.0)
    assert core.admit(14.9) == [], "a is expected back and keeps its place"
    assert core.admit(15.0) == [Join("c")]
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


class Machine(RuleBasedStateMachine):
    """Random arrivals, ends, vanishing clients and lies; somebody can always run, and nobody waits beyond the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.core = residency(50, release_s=5, max_hold_s=30)
        self.now = 0.0
        self.names = 0
        self.queued: dict[str, tuple[str, int, float]] = {}
        self.running: dict[str, tuple[str, int]] = {}

    @rule(job=st.sampled_from("abcdef"), blocks=st.integers(0, 60), order=st.integers(0, 1))
    def arrive(self, job: str, blocks: int, order: int) -> None:
        self.names += 1
        turn = f"t{self.names}"
        self.core.observe(TurnArrived(turn, chain(job, blocks), job, order_key=order), self.now)
        self.queued[turn] = (job, blocks, self.now)

    @rule()
    def schedule(self) -> None:
        self.core.admit(self.now)
        for turn, (job, blocks, _) in list(self.queued.items()):
            if self.core.may_run(turn):
                self.core.observe(Scheduled(turn, blocks, 0, 0, 0), self.now)
                self.running[turn] = (job, blocks)
                del self.queued[turn]
                break

    @rule(last=st.sampled_from([True, False, None]), grown=st.integers(0, 5), data=st.data())
    def finish(self, last: bool | None, grown: int, data: st.DataObject) -> None:
        if self.running:
            turn = data.draw(st.sampled_from(sorted(self.running)))
            job, blocks = self.running.pop(turn)
            self.core.observe(TurnFinished(turn, chain(job, blocks + grown), Stop.TOOL_USE, last=last), self.now)

    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        known = sorted(self.queued.keys() | self.running.keys())
        if known:
            turn = data.draw(st.sampled_from(known))
            self.core.observe(TurnAborted(turn), self.now)
            self.queued.pop(turn, None)
            self.running.pop(turn, None)

    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        if self.running:
            turn = data.draw(st.sampled_from(sorted(self.running)))
            self.core.observe(TurnPreempted(turn), self.now)
            self.queued[turn] = (*self.running.pop(turn), self.now)

    @rule(job=st.sampled_from("abcdefg"))
    def end(self, job: str) -> None:
        self.core.observe(JobFinished(job), self.now)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def somebody_can_run_and_nobody_waits_too_long(self) -> None:
        self.core.admit(self.now)
        self.core.check()
        if self.queued and not self.running:
            assert any(self.core.may_run(turn) for turn in self.queued)
        for turn, (_, _, since) in self.queued.items():
            if self.now - since > 30:
                assert self.core.may_run(turn), f"{turn} has waited {self.now - since} s"


TestAdmission = Machine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
