"""The directory under everything that can happen, against the engines' own truth: its books balance at every step."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agentcache.api.messages import (
    ContextState,
    Done,
    EndJob,
    Evict,
    Pause,
    ReleaseJob,
    Reply,
    Report,
    RetainJob,
    StartJob,
    decode,
    encode,
)
from agentcache.service.directory.directory import Directory, DirectoryConfig

ENGINES, NAMES, TENANTS = ("a", "b", "c"), ("one", "two", "three#"), ("t", "u")
RUNS = st.lists(st.integers(0, 40), max_size=6, unique=True).map(
    lambda edges: tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)


@dataclasses.dataclass
class Truth:
    """What one engine really holds."""

    epoch: int = 1
    seq: int = 0
    full: bool = True
    contexts: dict[str, ContextState] = dataclasses.field(default_factory=dict)
    changed: set[str] = dataclasses.field(default_factory=set)
    done: list[Done] = dataclasses.field(default_factory=list)


class DirectoryMachine(RuleBasedStateMachine):
    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory(
            DirectoryConfig(page_tokens=4, max_contexts=8, lease_tokens=60, lease_s=20.0, **self.options), 1.0
        )
        self.now = 0.0
        self.requests = 0
        self.engines = {name: Truth() for name in ENGINES}

    engine = st.sampled_from(ENGINES)
    context = st.builds("{}/{}".format, st.sampled_from(TENANTS), st.sampled_from(NAMES))

    @rule(
        engine=engine,
        context=context,
        anonymous=st.booleans(),
        standing=st.sampled_from(["tool", "end_turn", "ended"]),
        running=st.booleans(),
        runs=RUNS,
        depth=st.integers(0, 3),
        idle_s=st.floats(0, 50),
    )
    def change(
        self,
        engine: str,
        context: str,
        anonymous: bool,
        standing: Any,
        running: bool,
        runs: Any,
        depth: int,
        idle_s: float,
    ) -> None:
        truth = self.engines[engine]
        if anonymous:
            context = "~" + context[0]
        job = context if "#" not in context else context.partition("#")[0]
        truth.contexts[context] = ContextState(
            context,
            job,
            "running" if running else "idle",
            standing,
            "bash",
            depth,
            40,
            runs,
            0.0 if running else idle_s,
        )
        truth.changed.add(context)

    @rule(engine=engine, context=context)
    def forget(self, engine: str, context: str) -> None:
        if self.engines[engine].contexts.pop(context, None):
            self.engines[engine].changed.add(context)

    @rule(engine=engine, lost=st.sampled_from([None, None, None, "report", "reply"]), obeys=st.booleans())
    def exchange(self, engine: str, lost: str | None, obeys: bool) -> None:
        truth = self.engines[engine]
        truth.seq += 1
        names = truth.contexts if truth.full else truth.changed
        states = [truth.contexts.get(name) or ContextState(name, name, "gone") for name in sorted(names)]
        report = Report(
            engine=engine,
            epoch=str(truth.epoch),
            seq=truth.seq,
            full=truth.full,
            contexts=tuple(states),
            pauses=(Pause("tool", "bash", 1, 2.0),),
            done=tuple(truth.done),
        )
        truth.changed, truth.done, truth.full = set(), [], True
        if lost == "report":
            return
        reply = self.directory.report(decode(encode(report), Report), self.now)
        if lost == "reply":
            return
        reply = decode(encode(reply), Reply)
        truth.full = reply.resync
        for command in reply.commands if obeys else ():
            truth.done.append(Done(command.id, "accepted"))
            if isinstance(command, Evict) and (state := truth.contexts.get(command.context)):
                left = tuple(run for run in state.runs if run[1] <= command.start or run[0] >= command.end)
                truth.contexts[command.context] = msgspec.structs.replace(state, runs=left)
                truth.changed.add(command.context)

    @rule(engine=engine)
    def restart(self, engine: str) -> None:
        self.engines[engine] = Truth(epoch=self.engines[engine].epoch + 1)

    @rule(
        tenant=st.sampled_from(TENANTS),
        job=st.sampled_from(NAMES),
        kind=st.integers(0, 3),
        ttl_s=st.floats(0, 40),
        named=st.booleans(),
    )
    def act(self, tenant: str, job: str, kind: int, ttl_s: float, named: bool) -> None:
        self.requests += 1
        request = f"r{self.requests}" if named else None
        action: Any = (
            StartJob(job=job, request_id=request),
            RetainJob(job=job, ttl_s=ttl_s, request_id=request),
            ReleaseJob(job=job, request_id=request),
            EndJob(job=job, request_id=request),
        )[kind]
        answer = self.directory.apply(action, tenant, self.now)
        assert answer.outcome in ("accepted", "clipped", "deferred", "rejected", "missing")
        if answer.granted_s is not None:
            assert answer.granted_s <= min(ttl_s, 20.0)
        if request:
            assert self.directory.apply(action, tenant, self.now) == answer

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.4, 100.0, -50.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.directory.tick(self.now)

    @rule(engine=engine)
    def converge(self, engine: str) -> None:
        """After two exchanges in peace, what the directory believes of idle copies is what is there."""
        self.exchange(engine, None, True)
        self.exchange(engine, None, True)
        self.exchange(engine, None, True)
        truth = self.engines[engine]
        believed = {name: copy.runs for name, copy in self.directory._books.engines[engine].copies.items()}
        for name, runs in believed.items():
            held = truth.contexts[name].runs
            assert sum(e - s for s, e in runs) <= sum(e - s for s, e in held)

    @precondition(lambda self: self.options.get("budget_tokens"))
    @invariant()
    def budgets_hold_for_what_can_be_evicted(self) -> None:
        for view in self.directory.snapshot(None, 0, self.now).tenants:
            running = leased = 0
            for record in self.directory._books.by_id.values():
                if record.job.startswith(view.tenant + "/") or (not view.tenant and "/" not in record.job):
                    is_leased = bool(self.directory._books.jobs[record.job].leases)
                    running += sum(copy.tokens for copy in record.copies.values() if copy.running)
                    leased += sum(copy.tokens for copy in record.copies.values() if is_leased and not copy.running)
            assert view.resident_tokens <= self.options["budget_tokens"] + running + leased

    @invariant()
    def books_balance(self) -> None:
        self.directory.check()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": "asymcache", "budget_tokens": 50},
        {"policy": "return-index", "budget_tokens": 50, "duplicates": False, "idle_out_s": 30.0},
        {"policy": "lru", "max_pages": 30},
    ],
    ids=["default", "asymcache", "budgets", "crowded"],
)
def test_whatever_happens_the_books_balance(options: dict[str, Any]) -> None:
    machine = type("Machine", (DirectoryMachine,), {"options": options})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=30))
