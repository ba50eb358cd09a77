"""Who is live, and what the rule is told of them, against the definition: whoever has a turn, or left one lately."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcache.errors import CheckFailed
from agentcache.model import Context, Standing, TurnArrived
from agentcache.policy.admission.footing import Footing
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.residency.contexts import ContextBook
from agentcache.residency.live_jobs import LiveJobs

RELEASE_S, MOST_S = 10.0, 30.0
CONFIG = WorkingSetConfig(release_s=RELEASE_S, max_hold_s=MOST_S)


class Machine(RuleBasedStateMachine):
    """Turns of four jobs, one at a time in each; some never run, some end."""

    def __init__(self) -> None:
        super().__init__()
        self.book = ContextBook(16, 1000)
        self.live = LiveJobs(CONFIG, self.book, None, Footing(1, 2, 3))
        self.contexts: dict[str, Context] = {}
        self.queued: dict[str, float] = {}
        self.running: set[str] = set()
        self.left: dict[str, float] = {}  # who rests, since when
        self.now = 0.0
        self.names = 0

    @rule(job=st.sampled_from("abcd"), blocks=st.integers(1, 4), order_key=st.integers(0, 1))
    def arrive(self, job: str, blocks: int, order_key: int) -> None:
        if job in self.queued or job in self.running:
            return
        keys = tuple(f"{job}-{i}" for i in range(blocks))
        context = self.book.resolve(TurnArrived(job, keys, job, job))
        self.live.arrived(job, context, keys, order_key, self.now)
        context.turns.add(job)
        self.contexts[job] = context
        self.queued[job] = self.now
        self.left.pop(job, None)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.queued)))
        del self.queued[job]
        self.running.add(job)
        turn = self.live.turns[job]
        turn.queued_at = None
        self.live.outdate(turn.job)

    @precondition(lambda self: self.queued or self.running)
    @rule(data=st.data(), ends=st.booleans())
    def close(self, data: st.DataObject, ends: bool) -> None:
        job = data.draw(st.sampled_from(sorted(self.queued.keys() | self.running)))
        context, turn = self.contexts[job], self.live.turns[job]
        ran = job in self.running
        context.turns.discard(job)
        context.idle_since, context.standing = self.now, Standing.ENDED if ends else Standing.TOOL
        self.live.closed(job, turn, len(turn.keys) if ran else None)
        self.queued.pop(job, None)
        self.running.discard(job)
        if ran and not ends:
            self.left[job] = self.now

    @rule(seconds=st.sampled_from([1.0, RELEASE_S, MOST_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def as_defined(self) -> None:
        self.live.check()
        released = self.live.look_again(self.now)
        gone = {job for job, since in self.left.items() if self.now - since >= RELEASE_S}
        assert released == len(gone)
        self.left = {job: since for job, since in self.left.items() if job not in gone}
        assert self.live.by_name.keys() == self.queued.keys() | self.running | self.left.keys()
        assert self.live.overdue == {job for job, since in self.queued.items() if self.now - since > MOST_S}
        self.live.prefix.balance(math.inf)
        told = [candidate.job for candidate in sorted(self.live.candidates(self.now), key=lambda one: one.order)]
        assert list(self.live.prefix) == told
        assert self.live.next > self.now
        self.live.check()


TestLiveJobs = Machine.TestCase
TestLiveJobs.settings = settings(max_examples=60, stateful_step_count=30)


def test_the_check_finds_what_was_not_noted() -> None:
    book = ContextBook(4, 100)
    live = LiveJobs(CONFIG, book, None)
    job = live.arrived("turn", book.resolve(TurnArrived("turn", ("a",), "job")), ("a",), 0, 0.0)
    live.look_again(0.0)
    job.turns["turn"].keys = ("a", "b")
    with pytest.raises(CheckFailed, match="out of date, and not noted"):
        live.check()
    live.outdate(job)
    live.check()
