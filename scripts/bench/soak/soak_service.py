"""A cluster's books without a cluster: the directory, and an ingress and a replica's tally beside it.

Engines are drawn: they run turns, forget contexts, obey or do not, miss reports, restart, and are lost for good while
new ones come. Clients are drawn: they name their jobs or do not, take leases, end jobs or never do, and leave early.
"""

import asyncio
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from soak_engine import BUCKETS, CLASSES

from agentcache.api.messages import (
    ContextState,
    Done,
    EndJob,
    Evict,
    Pause,
    ReleaseJob,
    Report,
    RetainJob,
    StartJob,
    StartTool,
)
from agentcache.service.directory.directory import Directory, DirectoryConfig
from agentcache.service.replicas.counted_calls import CallTally
from agentcache.service.routing.call import Plan
from agentcache.service.routing.conversations import Lineage
from agentcache.service.routing.costs import Ledger, Rates, choose
from agentcache.service.routing.homes import Homes

ENGINES, OF_ENGINE, JOBS, TENANTS, BATCH = 6, 48, 64, 5, 8
CONFIG = DirectoryConfig(
    budget_tokens=400_000,
    lease_tokens=100_000,
    lease_s=60.0,
    max_leases=16,
    heartbeat_s=5.0,
    idle_out_s=120.0,
    max_contexts=200,
    max_pages=4096,
    max_tenants=8,
    page_tokens=1024,
)
REMEMBERED, LATE_S = 1024, 5.0
CHAIN = 12
"""Messages of a conversation at most."""

COPIES = ENGINES * (OF_ENGINE + BATCH)
BOUNDS = {
    name: (bound, why)
    for bound, why, names in (
        (CONFIG.max_contexts, "max_contexts", "Books.by_id Books.records Books.jobs"),
        (CONFIG.max_contexts, "max_contexts", "TenantBooks.contexts KnownJob.contexts"),
        (CONFIG.max_contexts + BATCH, "max_contexts of all tenants", "ContextBook._contexts ContextBook._jobs"),
        (CONFIG.max_contexts + BATCH, "max_contexts of all tenants", "ContextBook._jobs[] ReturnIndex._owners"),
        (2 * CONFIG.max_contexts, "nodes of the owners' trees", "Owners.after Owners.seated Tally._of Tally._sums"),
        (2 * CONFIG.max_contexts * 8, "standings of each node", "Owners.standings"),
        (CONFIG.max_contexts * CHAIN, "pages of all contexts", "OwnersTree.at"),
        (CONFIG.max_contexts + BATCH, "a seat of each context", "ReturnIndex._groups"),
        (4 * CONFIG.max_contexts + 64 * 8, "a sweep at four times the owners", "ReturnIndex._edges ReturnIndex._heap"),
        (CONFIG.max_contexts * CHAIN, "pages of all contexts", "_Group.owners _Owner.groups"),
        (CONFIG.max_contexts * BUCKETS, "buckets of owners", "_Owner.rates"),
        (CONFIG.max_contexts * CHAIN, "pages of all contexts", "ContextBook._owners"),
        (CLASSES, "classes of pauses", "ClusterSurvival._rows ClusterSurvival._curves ClusterSurvival._returns"),
        (4 * CLASSES, "classes under each class", "ClusterSurvival._below[]"),
        (CLASSES * (BUCKETS + 1), "buckets of classes", "Curve.rates Curve._alive"),
        (CONFIG.max_contexts * 16, "the last decisions on each job", "KnownJob.decisions"),
        (COPIES, "what engines hold", "KnownEngine.copies Record.copies Holdings._copies"),
        (COPIES, "what engines hold", "KnownJob.places Survival._pausing"),
        (2 * COPIES, "resting contexts", "ClusterSurvival._pausing ClusterSurvival._sampled"),
        (CONFIG.max_pages, "max_pages", "Held.pages Residency._evictable _Group.blocks Holdings._free"),
        (2 * CONFIG.max_pages, "pages that were there at once", "ReturnIndex._group_of"),
        (CONFIG.max_leases * 8, "max_leases of each tenant", "Books.leased Books.expiries"),
        (CONFIG.max_leases * 8, "max_leases of each tenant", "TenantBooks.leased KnownJob.leases"),
        (1024 * ENGINES, "commands for engines", "KnownEngine.queue KnownEngine.sent"),
        (4096, "kept pauses", "PauseExchange._kept"),
        (4096 * 8, "answers to requests with ids, of each tenant", "TenantBooks.answers"),
        (REMEMBERED, "the ingress's capacity", "Homes._jobs Lineage._ends Lineage._trees"),
        (REMEMBERED * 8, "replicas that hold a job's context", "Whereabouts.tokens"),
        (1024, "replicas lost", "Homes._lost"),
        (2 * BATCH, "calls on their way", "Ledger.open CallTally.open CallTally._awaited"),
        (BATCH * 60, "calls that ended in the last seconds", "CallTally._ended"),
    )
    for name in names.split()
}
"""What each map may hold after any number of turns, and why."""


@dataclass
class Replica:
    """An engine as the directory sees it, with the truth of what it holds."""

    name: str
    epoch: int = 1
    seq: int = 0
    full: bool = True
    states: OrderedDict[str, ContextState] = field(default_factory=OrderedDict)
    changed: set[str] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)


@dataclass
class Client:
    tenant: str
    job: str | None  # None: it names none
    messages: list[dict[str, str]]
    left: int


class Cluster:
    """`turns` counts those that have ended, however. `step` is to be called on `loop`, whose time is the clock's."""

    def __init__(self, seed: int) -> None:
        self.turns = 0
        self.seconds = 0.0
        self._rng = random.Random(seed)
        self._names = 0
        self._directory = Directory(CONFIG, 1.0)
        self._homes, self._lineage = Homes(REMEMBERED), Lineage(REMEMBERED)
        self._ledger, self._tally = Ledger(), CallTally(LATE_S)
        self._replicas = [Replica(self._name("engine")) for _ in range(ENGINES)]
        self._clients: list[Client] = []

    @property
    def roots(self) -> list[Any]:
        """Everything of ours that may grow."""
        return [self._directory, self._homes, self._lineage, self._ledger, self._tally]

    def check(self) -> None:
        self._directory.check()
        self._homes.check()
        self._lineage.check()

    async def step(self) -> None:
        """One replica runs a batch of turns, and reports as they run and as they rest."""
        rng = self._rng
        self.seconds += rng.uniform(0.05, 0.2)
        self._directory.tick(self.seconds)
        self._vary()
        begun = [self._begin() for _ in range(BATCH)]
        for replica in self._replicas:
            self._report(replica)
        waits = [asyncio.ensure_future(self._call(plan)) for _, plan in begun]
        self.seconds += rng.uniform(0.05, 0.2)
        for _ in range(4):
            await asyncio.sleep(0)
        await asyncio.gather(*waits)
        for context, plan in begun:
            self._end(context, plan)
        for replica in self._replicas:
            self._report(replica)

    # Clients

    def _begin(self) -> tuple[str, Plan]:
        """A turn is sent: to whom it belongs, where it goes, and what its client says beside it."""
        rng = self._rng
        if len(self._clients) < JOBS:
            self._clients.append(self._client())
        client = rng.choice(self._clients)
        if rng.random() < 0.1:
            del client.messages[1:]  # compacted, or edited
        client.messages.append({"role": "user", "content": self._name("said")})
        body = {"model": "m", "messages": client.messages}
        conversation = self._lineage.follow(client.tenant, body, client.job, None)
        job = f"{client.tenant}/{conversation}"
        self._say(client, conversation)
        plan = self._homes.plan(job, 500 * len(client.messages), "ingress")
        plan.request = self._name("request")
        names = [replica.name for replica in self._replicas]
        self._ledger.forget()
        waits, requests = self._ledger.waiting_s(), self._ledger.requests()
        choose(plan, waits, requests, {name: Rates() for name in names})
        self._ledger.open[plan.request] = plan
        self._run(next(one for one in self._replicas if one.name == plan.replica), job, plan.tokens)
        client.left -= 1
        if client.left <= 0 or len(client.messages) >= CHAIN:
            self._clients.remove(client)
            if rng.random() < 0.5:
                self._directory.apply(EndJob(job=conversation), client.tenant, self.seconds)
                self._homes.ended(job)
        return job, plan

    def _client(self) -> Client:
        rng, job = self._rng, self._name("job")
        named = job if rng.random() < 0.5 else None
        return Client(f"tenant{rng.randrange(TENANTS)}", named, [{"role": "system", "content": job}], rng.randrange(9))

    def _say(self, client: Client, job: str) -> None:
        rng = self._rng
        request = self._name("r") if rng.random() < 0.5 else None
        said: Any = rng.choice((None, None, StartJob, RetainJob, StartTool, ReleaseJob))
        if said is RetainJob:
            said = RetainJob(job=job, ttl_s=rng.choice((5.0, 300.0)), request_id=request)
        elif said is StartTool:
            said = StartTool(job=job, tool=self._name("tool"), request_id=request)
        elif said:
            said = said(job=job, request_id=request)
        if said:
            self._directory.apply(said, client.tenant, self.seconds)

    async def _call(self, plan: Plan) -> None:
        """A replica's side of a call, and Serve's word of it, which comes before, after, or never."""
        rng = self._rng
        order = rng.random()
        hold = asyncio.ensure_future(self._tally.hold(plan.request)) if order < 0.6 else None
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        if hold and order < 0.05:
            hold.cancel()  # Serve gives the call up
        if order < 0.1 and rng.random() < 0.5:
            plan.ended = True  # its client has left before it reached the replica
            if hold:
                hold.cancel()
                await asyncio.gather(hold, return_exceptions=True)
            return
        running = asyncio.ensure_future(self._running(plan))
        await asyncio.sleep(0)
        if rng.random() < 0.05:
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if 0.6 < order < 0.95:
            hold = asyncio.ensure_future(self._tally.hold(plan.request))
        if hold:
            hold.cancel() if running.cancelled() and order > 0.6 else None
            await asyncio.sleep(0)
        plan.started = plan.ended = True

    async def _running(self, plan: Plan) -> None:
        with self._tally.running(plan):
            await asyncio.sleep(0)

    # Replicas

    def _run(self, replica: Replica, context: str, tokens: int) -> None:
        """The turn runs: what was evicted is there again."""
        known = replica.states.get(context)
        depth = known.depth if known else 0
        if not known and self._rng.random() < 0.2:
            context = f"~{self._name('left')}"  # nobody has named it to the engine
        replica.states[context] = ContextState(
            context, context, "running", "tool", "bash", depth, tokens, ((0, tokens),)
        )
        replica.states.move_to_end(context)
        replica.changed.add(context)
        while len(replica.states) > OF_ENGINE:
            gone, _ = replica.states.popitem(last=False)
            replica.changed.add(gone)

    def _end(self, context: str, plan: Plan) -> None:
        self.turns += 1
        self._homes.served(plan.job, plan.replica or "", plan.tokens, self.seconds)
        for replica in self._replicas:
            for name in [name for name in replica.changed if name in replica.states]:
                state = replica.states[name]
                if state.state == "running":
                    standing = self._rng.choice(("tool", "end_turn", "unknown", "ended"))
                    start = self._rng.choice((0, 0, state.tokens // 2 // 16 * 16))
                    replica.states[name] = replace(
                        state,
                        state="idle",
                        standing=standing,
                        depth=state.depth + 1,
                        runs=((start, state.tokens),) if start < state.tokens else (),
                    )

    def _report(self, replica: Replica) -> None:
        rng = self._rng
        replica.seq += 1
        names = list(replica.states) if replica.full else sorted(replica.changed)
        contexts = tuple(replica.states.get(name) or ContextState(name, name, "gone") for name in names)
        report = Report(
            engine=replica.name,
            epoch=str(replica.epoch),
            seq=replica.seq,
            full=replica.full,
            contexts=contexts,
            pauses=(Pause("tool", rng.choice(("bash", self._name("tool"))), 1, rng.uniform(0, 30)),),
            done=tuple(replica.done),
        )
        replica.changed = {name for name in replica.changed if name in replica.states}
        replica.changed = {name for name in replica.changed if replica.states[name].state == "running"}
        replica.done, replica.full = [], True
        if rng.random() < 0.01:
            return  # lost on its way
        reply = self._directory.report(report, self.seconds)
        if rng.random() < 0.01:
            return
        replica.full = reply.resync
        for command in reply.commands:
            if rng.random() < 0.02:
                continue  # it never answers
            replica.done.append(Done(command.id, "accepted"))
            if isinstance(command, Evict) and (state := replica.states.get(command.context)) and state.state == "idle":
                left = tuple(run for run in state.runs if run[1] <= command.start or run[0] >= command.end)
                replica.states[command.context] = replace(state, runs=left)
                replica.changed.add(command.context)

    def _vary(self) -> None:
        rng = self._rng
        if rng.random() < 0.002:
            replica = rng.choice(self._replicas)
            replica.epoch, replica.seq, replica.full = replica.epoch + 1, 0, True
            replica.states.clear()
            replica.changed.clear()
        if rng.random() < 0.001:  # one is lost for good, another takes its place
            gone = self._replicas.pop(rng.randrange(len(self._replicas)))
            self._homes.lost(gone.name)
            self._replicas.append(Replica(self._name("engine")))

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"
