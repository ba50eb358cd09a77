"""Admission under a simulated host: whatever happens somebody can run, and nobody waits for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import (
    BlocksEvicted,
    BlocksStored,
    JobFinished,
    PoolResized,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.policy import make_policy
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.residency import Residency

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16)
SYSTEM = 5
"""Blocks that all contexts begin with."""

RULES = [
    "working-set:release_s=5,max_hold_s=30",
    "working-set:max_hold_s=30,floor.x=0.3",
    "fixed-release:0,max_hold_s=30,headroom=0.2",
    "working-set:order=resident,max_hold_s=30",
    "program",
    "resident-first",
]
FOOTINGS = [ONE_GROUP, ONE_GROUP, Footing(1, 4, 0.5, 7, 10), Footing(0.5, 0, 2), Footing(0, 9)]


def chain(branch: str, blocks: int) -> tuple[str, ...]:
    return tuple(f"system-{i}" if i < SYSTEM else f"{branch}-{i}" for i in range(blocks))


class Machine(RuleBasedStateMachine):
    """Random arrivals, ends, vanishing clients, lies and pools.

    The host takes turns in the order of their ranks as long as their blocks fit, like an engine: a turn that does not
    fit ends its step, and a turn that is stuck (for a reason of the host's own) is passed over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.names = 0
        self.capacity = 60
        self.queued: dict[str, tuple[str, int, float]] = {}
        self.running: dict[str, tuple[str, int]] = {}
        self.stuck: set[str] = set()

    @initialize(spec=st.sampled_from(RULES), footing=st.sampled_from(FOOTINGS))
    def start(self, spec: str, footing: Footing) -> None:
        self.config = parse_admission(spec)
        assert isinstance(self.config, WorkingSetConfig)
        policy = make_policy("lru-holes", COST, 60)
        self.core = self.made(Residency(policy, 60, admission=self.config, footing=footing))

    def made(self, core: Residency) -> Residency:
        return core

    @rule(
        job=st.sampled_from(["a", "b", "c", "x/d", "x/e", "y/f"]),
        branch=st.sampled_from(["", "1", "2"]),
        blocks=st.integers(0, 30),
        order=st.integers(0, 1),
        named=st.booleans(),
    )
    def arrive(self, job: str, branch: str, blocks: int, order: int, named: bool) -> None:
        self.names += 1
        turn, context = f"t{self.names}", job + branch
        self.core.observe(
            TurnArrived(turn, chain(context, blocks), job if named else None, None, order_key=order), self.now
        )
        self.queued[turn] = (context, blocks, self.now)

    @rule(resident=st.sampled_from([0.0, 0.0, 0.5, 1.0]))
    def step(self, resident: float = 0.0) -> None:
        self.core.admit(self.now)
        ran = bool(self.running)
        for turn in sorted(self.queued, key=self.core.rank):
            context, blocks, _ = self.queued[turn]
            if turn in self.stuck or not self.core.may_run(turn):
                continue
            if self.running and sum(n for _, n in self.running.values()) + blocks > self.capacity:
                break
            self.core.observe(TurnScheduled(turn, blocks, int(blocks * resident), 0, 0), self.now)
            self.core.observe(BlocksStored(chain(context, blocks)), self.now)
            self.running[turn] = (context, blocks)
            del self.queued[turn]
            ran = True
        if not ran and self.queued:
            self.core.stalled()

    @rule(last=st.sampled_from([True, False, None]), grown=st.integers(0, 5), data=st.data())
    def finish(self, last: bool | None, grown: int, data: st.DataObject) -> None:
        if self.running:
            turn = data.draw(st.sampled_from(sorted(self.running)))
            context, blocks = self.running.pop(turn)
            self.core.observe(TurnFinished(turn, chain(context, blocks + grown), Stop.TOOL_USE, last=last), self.now)
            self.core.observe(BlocksEvicted(chain(context, blocks)), self.now)

    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        if known := sorted(self.queued.keys() | self.running.keys()):
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

    @rule(data=st.data())
    def stick(self, data: st.DataObject) -> None:
        if self.queued:
            self.stuck ^= {data.draw(st.sampled_from(sorted(self.queued)))}

    @rule(job=st.sampled_from(["a", "b", "x/d", "nobody"]))
    def end(self, job: str) -> None:
        self.core.observe(JobFinished(job), self.now)

    @rule(blocks=st.integers(20, 100))
    def resize(self, blocks: int) -> None:
        self.core.observe(PoolResized(blocks), self.now)
        self.capacity = blocks

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def somebody_can_run_and_nobody_waits_too_long(self) -> None:
        if not self.names:
            return
        self.core.admit(self.now)
        assert self.core.admission
        self.core.admission.check()
        if self.queued and not self.running:
            assert any(self.core.may_run(turn) for turn in self.queued)
        for turn, (_, _, since) in self.queued.items():
            if self.now - since > 30:
                assert self.core.may_run(turn), f"{turn} has waited {self.now - since} s"
        choice, config = self.core.admission.choice, self.core.admission.config
        if not choice.exceptions:
            assert choice.used_blocks <= self.core.admission.footing.room(self.capacity, config.headroom)

    def teardown(self) -> None:
        """Once nobody comes any more, everybody gets to run: the queue drains without waiting for a bound."""
        self.stuck.clear()
        for _ in range(len(self.queued) + len(self.running)):
            for turn in sorted(self.running):
                context, blocks = self.running.pop(turn)
                self.core.observe(TurnFinished(turn, chain(context, blocks), Stop.TOOL_USE), self.now)
            if not self.queued:
                break
            self.step()
            assert self.running, f"{len(self.queued)} turns wait and none of them can run"


TestAdmission = Machine.TestCase
TestAdmission.settings = settings(max_examples=300, stateful_step_count=50)
