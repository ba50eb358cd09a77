"""The directory: which contexts the cluster knows, which engine holds how much of each, and what should change.

Plain and synchronous: messages and the time go in, messages come out. It opens nothing, waits for nothing and knows
nothing of Ray; `actor` puts it on the network. What it holds can be lost: engines announce themselves again.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec

from agentcache.api.messages import (
    MAX_TTL_S,
    Action,
    Answer,
    Command,
    ContextState,
    ContextView,
    Copy,
    EndJob,
    EndTurn,
    EngineView,
    Evict,
    Explanation,
    FinishTool,
    Parameters,
    Placement,
    Release,
    ReleaseJob,
    Reply,
    Report,
    Retain,
    RetainJob,
    Run,
    Snapshot,
    StartJob,
    StartTool,
    TenantView,
    ToolBegan,
    ToolEnded,
    scoped,
    tenant_of,
)
from agentcache.cost import CostModel, CostProfile
from agentcache.errors import CheckFailed, ConfigError
from agentcache.policy import make_policy
from agentcache.service.holdings import Held, Holdings, Record
from agentcache.service.pauses import PauseExchange
from agentcache.service.survival import ClusterSurvival


class DirectoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the directory, with their defaults.

    `policy`: what orders contexts when a budget is exceeded: `return-index`, `asymcache` with options, or any other.
    `budget_tokens`: what one tenant may hold in all engines together; None for no limit; `budgets` by tenant.
    `lease_tokens`, `lease_s`: what of it may be leased, and for how long at a time. `heartbeat_s`: an engine that is
    silent for longer is forgotten. `idle_out_s`: so is a context that nobody used. `max_contexts` and `max_pages` of
    `page_tokens` tokens bound memory. `period_s`: how often engines report. `duplicates`: whether copies that a turn
    elsewhere has overtaken are evicted. `c_lin` and `c_att` price tokens until an engine says what they cost it.
    """

    policy: str = "return-index"
    budget_tokens: int | None = None
    budgets: dict[str, int] = {}
    lease_tokens: int = 1 << 20
    lease_s: float = 600.0
    max_leases: int = 1024
    heartbeat_s: float = 5.0
    idle_out_s: float = 3600.0
    max_contexts: int = 200_000
    max_pages: int = 1 << 20
    max_tenants: int = 1024
    page_tokens: int = 8192
    period_s: float = 0.25
    ack_s: float = 10.0
    duplicates: bool = True
    c_lin: float = 3.33e-5
    c_att: float = 6.55e-10


_QUEUE = 1024
_ANSWERS = 4096
_PAUSES_A_REPLY = 200
_TICK_S = 0.25


@dataclass(slots=True)
class _Lease:
    until: float
    keep_priority: int
    tokens: int


@dataclass(slots=True, eq=False)
class _Job:
    id: str
    touched_at: float
    contexts: dict[str, Record] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    deferred: bool = False
    ended: bool = False
    tool: str | None = None
    decisions: deque[str] = field(default_factory=lambda: deque(maxlen=16))
    paid_s: float = 0.0
    saved_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Engine:
    name: str
    epoch: str
    heard_at: float
    seq: int = 0
    capacity_tokens: int = 0
    free_tokens: int = 0
    waiting_rebuild_s: float = 0.0
    dropped: int = 0
    resync: bool = False
    c_lin: float = 0.0
    c_att: float = 0.0
    copies: dict[str, Held] = field(default_factory=dict)  # by the engine's own name of the context
    queue: deque[Command] = field(default_factory=lambda: deque(maxlen=_QUEUE))
    sent: dict[int, float] = field(default_factory=dict)  # commands that it has not answered, and since when

    @property
    def resident_tokens(self) -> int:
        return sum(copy.tokens for copy in self.copies.values())


@dataclass(slots=True, eq=False)
class _Tenant:
    holdings: Holdings
    jobs: int = 0
    leased_tokens: int = 0
    leases: int = 0
    tokens: int = 0
    answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)


class Directory:
    """The cluster's residency. Every call takes the time in seconds, from any clock: one that goes back stands still,
    and one that leaps, because the process or its machine slept, costs nobody its lease or its heartbeat.
    """

    def __init__(self, config: DirectoryConfig | None = None, incarnation: float | None = None) -> None:
        """Raises `ConfigError` for options that cannot be used."""
        self.config = config = config or DirectoryConfig()
        for name in ("heartbeat_s", "idle_out_s", "period_s", "max_contexts", "max_pages", "page_tokens", "c_lin"):
            if not getattr(config, name) > 0:
                raise ConfigError(f"{name} is {getattr(config, name)}, expected more than 0; nothing was started")
        self.service = uuid4().hex[:12]
        self.incarnation = time.time() if incarnation is None else incarnation
        self.period_s = config.period_s  # longer while whoever runs this has more to do than it can
        self.counts: dict[str, int] = {}
        self.pauses = PauseExchange()
        self._cost = CostModel(CostProfile(c_lin=config.c_lin, c_att=config.c_att), config.page_tokens)
        make_policy(config.policy, self._cost, config.max_pages)  # the spec is wrong now, or never
        self._survival = ClusterSurvival()
        self._tenants: dict[str, _Tenant] = {}
        self._engines: dict[str, _Engine] = {}
        self._jobs: OrderedDict[str, _Job] = OrderedDict()  # least recently touched first
        self._records: dict[int, Record] = {}
        self._by_id: OrderedDict[str, Record] = OrderedDict()  # least recently touched first
        self._leased: dict[str, _Job] = {}
        self._over: set[str] = set()  # tenants whose use has grown
        self._numbers = 0
        self._commands = 0
        self._pages = 0
        self._now = self._clock = self._ticked_at = self._started_at = 0.0
        self._begun = False

    # Engines

    def report(self, report: Report, now: float) -> Reply:
        """Take a batch of deltas in; returns what the engine should do and go by."""
        now = self._at(now)
        engine = self._engines.get(report.engine)
        if engine is None or engine.epoch != report.epoch:
            if engine is not None:
                self._lose(engine, "restarted")
            engine = self._engines[report.engine] = _Engine(report.engine, report.epoch, now)
            engine.resync = not report.full
            self.pauses.forget(report.engine)
        elif report.seq <= engine.seq:
            self._count("reports_repeated")
            return self._reply(engine)
        elif report.seq != engine.seq + 1:
            self._count("reports_missed", report.seq - engine.seq - 1)
            engine.resync = True
        self._count("reports")
        engine.heard_at, engine.seq = now, report.seq
        engine.capacity_tokens, engine.free_tokens = report.capacity_tokens, report.free_tokens
        engine.resync |= report.dropped > engine.dropped  # what it lost it must show again
        engine.waiting_rebuild_s, engine.dropped = report.waiting_rebuild_s, report.dropped
        engine.c_lin, engine.c_att = report.c_lin or self.config.c_lin, report.c_att or self.config.c_att
        self.pauses.hear(report.engine, report.pauses)
        for done in report.done:
            engine.sent.pop(done.command, None)
            self._count(f"commands_{done.outcome}")
        if report.full:
            engine.resync = False
            named = {state.id for state in report.contexts}
            for local_id in [name for name in engine.copies if name not in named]:
                self._gone(engine, local_id, now)
            if engine.sent:
                self._count("commands_lost", len(engine.sent))
                engine.sent.clear()
        for state in report.contexts:
            if state.state == "gone":
                self._gone(engine, state.id, now)
            else:
                self._state(engine, state, now)
        if report.full:
            self._remind(engine, now)
        self._tick(now)
        return self._reply(engine)

    def _reply(self, engine: _Engine) -> Reply:
        commands = []
        while engine.queue:
            command = engine.queue.popleft()
            engine.sent[command.id] = self._now
            commands.append(command)
        return Reply(
            service=self.service,
            incarnation=self.incarnation,
            seq=engine.seq,
            resync=engine.resync,
            parameters=Parameters(period_s=self.period_s, pauses=self.pauses.tell(engine.name, _PAUSES_A_REPLY)),
            commands=tuple(commands),
        )

    def _state(self, engine: _Engine, state: ContextState, now: float) -> None:
        """A context as an engine has it: a new copy, a turn that came or went, or blocks that did."""
        copy = engine.copies.get(state.id)
        fresh = copy is None
        if copy is None:
            copy = self._new_copy(engine, state, now)
        record = copy.record
        job = self._jobs[record.job]
        was_running, came_back = copy.running, state.state == "running" and not copy.running
        holdings = self._tenant(record.job)
        if came_back and record.depth:
            self._account(job, engine, copy, record.tokens)
        self._by_id.move_to_end(record.id)
        if came_back or was_running:
            job.touched_at = now
            self._jobs.move_to_end(job.id)
        before, pages = copy.tokens, holdings.holdings.pages
        holdings.holdings.show(copy, state, now)
        holdings.tokens += copy.tokens - before
        self._pages += holdings.holdings.pages - pages
        later = fresh and now - state.idle_s > record.idle_since
        newest = record.home is None or state.state == "running" or was_running or later
        if newest:
            record.home = engine.name
            record.tokens, record.tool, record.depth = state.tokens, state.tool, state.depth
            record.idle_since = now - state.idle_s
            if state.state == "running" and job.ended:  # it was not the end
                job.ended = False
        if state.standing == "ended" != record.standing:
            holdings.holdings.end(record, now)
        if newest or state.standing == "ended":
            record.standing = state.standing
        if copy.tokens > before:
            self._over.add(tenant_of(record.job))
        if job.leases and (newest or before == 0):
            self._retain(engine, copy, job, now)
        if state.state == "idle" and (was_running or fresh):
            self._rested(engine, record, job, now)

    def _new_copy(self, engine: _Engine, state: ContextState, now: float) -> Held:
        job_id, record_id = self._names(engine, state)
        job = self._job(job_id, now)
        record = job.contexts.get(record_id)
        if record is None:
            self._numbers += 1
            record = Record(self._numbers, record_id, job_id, idle_since=now - state.idle_s)
            self._records[record.number] = self._by_id[record_id] = job.contexts[record_id] = record
        copy = engine.copies[state.id] = Held(engine.name, record, state.id, state.job)
        record.copies[engine.name] = copy
        return copy

    def _names(self, engine: _Engine, state: ContextState) -> tuple[str, str]:
        """The cluster's names of a job and context: an engine's own inventions are told apart by its name."""
        if state.id.startswith("~"):
            return f"{engine.name}:{state.job}", f"{engine.name}:{state.id}"
        if state.id.startswith(own := f"{state.job}#"):
            # Named by its job alone: the first one of a job that an engine shows is taken for the job's own.
            job = self._jobs.get(state.job)
            first = job.contexts.get(own) if job else None
            return state.job, f"{engine.name}:{state.id}" if first and engine.name in first.copies else own
        known = self._by_id.get(state.id)
        return known.job if known else state.job, state.id

    def _account(self, job: _Job, engine: _Engine, copy: Held, tokens: int) -> None:
        """A turn came back: what its old context costs there now, and what it does not."""
        paid = self._missing_s(engine, copy.runs, tokens)
        job.paid_s += paid
        job.saved_s += self._missing_s(engine, (), tokens) - paid

    def _missing_s(self, engine: _Engine, runs: Iterable[Run], tokens: int) -> float:
        """Seconds of prefill on an engine for what of [0, tokens) is in none of the runs."""
        at, seconds = 0, 0.0
        for start, end in (*runs, (tokens, tokens)):
            low, high = at, min(start, tokens)
            if low < high:
                seconds += engine.c_lin * (high - low) + engine.c_att * (high * high - low * low)
            at = max(at, end)
        return seconds

    def _gone(self, engine: _Engine, local_id: str, now: float) -> None:
        copy = engine.copies.pop(local_id, None)
        if copy is None:
            return
        record = copy.record
        tenant = self._tenant(record.job)
        tenant.tokens -= copy.tokens
        pages = tenant.holdings.pages
        tenant.holdings.drop(copy, now)
        self._pages += tenant.holdings.pages - pages
        del record.copies[engine.name]
        if record.home == engine.name:
            record.home = max(record.copies, key=lambda name: record.copies[name].tokens, default=None)
        if not record.copies:
            self._forget(record, now)

    def _forget(self, record: Record, now: float) -> None:
        """No engine knows a context any more."""
        for copy in list(record.copies.values()):
            self._gone(self._engines[copy.engine], copy.local_id, now)
        if self._records.pop(record.number, None) is None:
            return
        self._tenant(record.job).holdings.end(record, now)
        del self._by_id[record.id]
        job = self._jobs[record.job]
        del job.contexts[record.id]
        if not job.contexts and not job.leases:
            self._close(job)

    def _lose(self, engine: _Engine, why: str) -> None:
        """An engine and all that it held are gone."""
        self._count(f"engines_{why}")
        for local_id in list(engine.copies):
            self._gone(engine, local_id, self._now)
        del self._engines[engine.name]
        self.pauses.forget(engine.name)

    # Decisions

    def _rested(self, engine: _Engine, record: Record, job: _Job, now: float) -> None:
        """A context is idle here: copies that its latest turn has overtaken are spare, and an end is everybody's."""
        if all(one.standing == "ended" for one in job.contexts.values()):
            self._end(job, now, told_by=engine.name)
        if self.config.duplicates and not record.running:
            for copy in record.copies.values():
                if copy.engine != record.home and copy.tokens:
                    self._evict(copy, 0, max(record.tokens, copy.runs[-1][1]), "duplicate", now)

    def _evict(self, copy: Held, start: int, end: int, why: str, now: float) -> None:
        """Evict all of an idle copy."""
        tenant = self._tenant(copy.record.job)
        tokens, pages = copy.tokens, tenant.holdings.pages
        tenant.holdings.clear(copy, now)
        tenant.tokens -= tokens
        self._pages += tenant.holdings.pages - pages
        self._order(copy, Evict(self._next(), copy.local_id, start, end, why), tokens)

    def _order(self, copy: Held, command: Evict, tokens: int) -> None:
        self._send(self._engines[copy.engine], command)
        self._count("evictions")
        self._count("evicted_tokens", tokens)
        self._note(copy.record.job, f"evict {tokens} tokens of {copy.record.id} in {copy.engine}: {command.reason}")

    def _end(self, job: _Job, now: float, told_by: str | None = None) -> None:
        """A job has ended: its contexts go first everywhere."""
        if job.ended:
            return
        job.ended = True
        self._drop_leases(job)
        holdings = self._tenant(job.id).holdings
        for record in job.contexts.values():
            record.standing = "ended"
            holdings.end(record, now)
        self._release(job, "job ended", told_by)
        self._count("jobs_ended")

    def _release(self, job: _Job, why: str, told_by: str | None = None) -> None:
        for name, local_job in sorted(self._places(job)):
            if name != told_by:
                self._send(self._engines[name], Release(self._next(), local_job, why))
                self._note(job.id, f"release in {name}: {why}")

    def _places(self, job: _Job) -> set[tuple[str, str]]:
        """The engines that hold something of a job, and what it is called there."""
        return {(name, copy.local_job) for record in job.contexts.values() for name, copy in record.copies.items()}

    def _retain(self, engine: _Engine, copy: Held, job: _Job, now: float) -> None:
        """Tell an engine of a job's longest lease."""
        lease = max(job.leases.values(), key=lambda lease: lease.until)
        if (ttl_s := min(lease.until - now, MAX_TTL_S)) > 0:
            self._send(engine, Retain(self._next(), copy.local_job, ttl_s, lease.keep_priority, "lease"))
            job.deferred = False

    def _remind(self, engine: _Engine, now: float) -> None:
        """An engine has shown all it holds: it may have missed leases and ends."""
        told: set[str] = set()
        for copy in engine.copies.values():
            job = self._jobs[copy.record.job]
            if job.id not in told and (job.leases or job.ended):
                told.add(job.id)
                if job.leases:
                    self._retain(engine, copy, job, now)
                elif copy.record.standing != "ended":
                    self._send(engine, Release(self._next(), copy.local_job, "job ended"))

    def _send(self, engine: _Engine, command: Command) -> None:
        if len(engine.queue) == _QUEUE:
            self._count("commands_dropped")
            engine.resync = True
        engine.queue.append(command)

    def _next(self) -> int:
        self._commands += 1
        return self._commands

    # The clock

    def _at(self, clock: float) -> float:
        """The service's own time: it follows the clock, but for leaps. A leap is longer than half a heartbeat."""
        if not self._begun:
            self._begun, self._clock = True, clock
        step = clock - self._clock
        self._clock = clock
        if step > self.config.heartbeat_s / 2:
            self._count("clock_leaps")
        elif step > 0:
            self._now += step
        elif step < 0:
            self._count("clock_leaps")
        return self._now

    def tick(self, now: float) -> None:
        """Let time pass: silent engines, expired leases, idle contexts. To be called every half heartbeat or more."""
        self._tick(self._at(now))

    def _tick(self, now: float) -> None:
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            for engine in list(self._engines.values()):
                if now - engine.heard_at > self.config.heartbeat_s:
                    self._lose(engine, "silent")
                elif engine.sent and now - next(iter(engine.sent.values())) > self.config.ack_s:
                    engine.resync = True
            for job in list(self._leased.values()):
                self._expire(job, now)
            self._age(now)
        for name in list(self._over):
            self._keep_budget(name, now)
        self._over.clear()
        self._bound(now)

    def _expire(self, job: _Job, now: float) -> None:
        for lease_id in [name for name, lease in job.leases.items() if lease.until <= now]:
            self._drop_lease(job, lease_id)
            self._count("leases_expired")
            self._note(job.id, f"lease {lease_id} expired")
        if not job.leases and not job.contexts:
            self._close(job)

    def _age(self, now: float) -> None:
        """Jobs that nobody touched for long are forgotten, with their contexts."""
        while self._jobs:
            job = next(iter(self._jobs.values()))
            if now - job.touched_at <= self.config.idle_out_s:
                return
            if job.leases or any(record.running for record in job.contexts.values()):
                job.touched_at = now
                self._jobs.move_to_end(job.id)
                continue
            self._count("contexts_aged_out", len(job.contexts))
            self._forget_job(job, now)

    def _forget_job(self, job: _Job, now: float) -> None:
        for record in list(job.contexts.values()):
            self._forget(record, now)
        if job.id in self._jobs:
            self._close(job)

    def _bound(self, now: float) -> None:
        """Keep to the bounds on memory: the contexts that were used longest ago go."""
        config = self.config
        while len(self._by_id) > config.max_contexts or self._pages > config.max_pages:
            record = next((record for record in self._by_id.values() if not record.running), None)
            record = record or next(iter(self._by_id.values()))
            self._forget(record, now)
            self._count("contexts_crowded_out")
        while len(self._jobs) > config.max_contexts:
            self._forget_job(next(iter(self._jobs.values())), now)
            self._count("jobs_crowded_out")

    def _keep_budget(self, name: str, now: float) -> None:
        """A tenant's use has grown: what is worth least goes, until it fits its budget."""
        budget = self.budget_tokens(name)
        tenant = self._tenants.get(name)
        if budget is None or tenant is None or (over := tenant.tokens - budget) <= 0:
            return
        leased = (job for job in self._leased.values() if tenant_of(job.id) == name)
        excluded = tenant.holdings.blocks(record for job in leased for record in job.contexts.values())
        pages = tenant.holdings.pages
        for copy, start, end, tokens in tenant.holdings.evict(over, excluded, self._records, now):
            self._order(copy, Evict(self._next(), copy.local_id, start, end, "tenant over budget"), tokens)
            tenant.tokens -= tokens
        self._pages += tenant.holdings.pages - pages

    def budget_tokens(self, tenant: str) -> int | None:
        """What a tenant may hold in all engines together."""
        return self.config.budgets.get(tenant, self.config.budget_tokens)

    # Jobs

    def apply(self, action: Action, tenant: str, now: float) -> Answer:
        """Do what a client says about a job of its tenant's. One `request_id` is carried out once."""
        now = self._at(now)
        books = self._tenant(scoped(tenant, action.job))
        if action.request_id and (known := books.answers.get(action.request_id)):
            self._count("actions_repeated")
            return known
        answer = self._apply(action, scoped(tenant, action.job), now)
        self._count(f"actions_{answer.outcome}")
        if action.request_id:
            answer = msgspec.structs.replace(answer, request_id=action.request_id)
            books.answers[action.request_id] = answer
            if len(books.answers) > _ANSWERS:
                books.answers.popitem(last=False)
        return answer

    def _apply(self, action: Action, job_id: str, now: float) -> Answer:
        match action:
            case StartJob():
                job = self._job(job_id, now)
                job.ended = False
                return Answer(outcome="accepted")
            case RetainJob():
                return self._lease(action, job_id, now)
        known = self._jobs.get(job_id)
        if known is None:
            return Answer(outcome="missing", detail=f"no job {action.job!r} is known")
        known.touched_at = now
        self._jobs.move_to_end(job_id)
        match action:
            case EndJob():
                self._end(known, now)
            case ReleaseJob():
                self._drop_leases(known)
                self._release(known, "asked")
            case StartTool(tool=tool, expected_s=expected_s):
                known.tool = tool
                for name, local_job in sorted(self._places(known)):
                    self._send(self._engines[name], ToolBegan(self._next(), local_job, tool, expected_s))
            case FinishTool(tool=tool):
                known.tool = None
                for name, local_job in sorted(self._places(known)):
                    self._send(self._engines[name], ToolEnded(self._next(), local_job, tool))
            case EndTurn(tool=tool, last=last):
                known.tool = tool
                if last:
                    self._end(known, now)
        return Answer(outcome="accepted" if known.contexts else "deferred")

    def _lease(self, action: RetainJob, job_id: str, now: float) -> Answer:
        config = self.config
        tenant = self._tenant(job_id)
        job = self._jobs.get(job_id)
        if job is None or (action.lease and action.lease not in job.leases):
            what = f"lease {action.lease!r}" if job else f"job {action.job!r}"
            return Answer(outcome="missing", detail=f"no {what} is known")
        if job.ended:
            return Answer(outcome="rejected", detail="the job has ended")
        tokens = sum(record.tokens for record in job.contexts.values())
        old = job.leases.get(action.lease) if action.lease else None
        others = max((lease.tokens for lease in job.leases.values() if lease is not old), default=0)
        more = max(tokens - max(others, old.tokens if old else 0), 0)
        if tenant.leased_tokens + more > config.lease_tokens or (not old and tenant.leases >= config.max_leases):
            detail = f"{tenant.leased_tokens} tokens are leased, {more} more pass the limit of {config.lease_tokens}"
            return Answer(outcome="rejected", detail=detail)
        lease_id = action.lease or uuid4().hex[:12]
        granted_s = min(action.ttl_s, config.lease_s)
        if old:
            self._drop_lease(job, lease_id)
        before = _leased_tokens(job)
        job.leases[lease_id] = _Lease(now + granted_s, action.keep_priority, tokens)
        tenant.leased_tokens += _leased_tokens(job) - before
        tenant.leases += 1
        self._leased[job_id] = job
        job.touched_at = now
        self._note(job_id, f"lease {lease_id} for {granted_s:g} s")
        for name, local_job in sorted(self._places(job)):
            self._send(self._engines[name], Retain(self._next(), local_job, granted_s, action.keep_priority, "lease"))
        outcome = "clipped" if granted_s < action.ttl_s else "accepted" if job.contexts else "deferred"
        return Answer(
            outcome=outcome,  # type: ignore[arg-type]
            detail="" if job.contexts else "no engine holds anything of the job yet",
            lease=lease_id,
            granted_s=granted_s,
            granted_priority=action.keep_priority,
        )

    def _drop_lease(self, job: _Job, lease_id: str) -> None:
        tenant = self._tenant(job.id)
        before = _leased_tokens(job)
        del job.leases[lease_id]
        tenant.leased_tokens += _leased_tokens(job) - before
        tenant.leases -= 1
        if not job.leases:
            self._leased.pop(job.id, None)

    def _drop_leases(self, job: _Job) -> None:
        for lease_id in list(job.leases):
            self._drop_lease(job, lease_id)

    def _job(self, job_id: str, now: float) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = _Job(job_id, now)
            self._tenant(job_id).jobs += 1
            self._count("jobs")
        return job

    def _close(self, job: _Job) -> None:
        self._drop_leases(job)
        del self._jobs[job.id]
        self._tenant(job.id).jobs -= 1

    def _tenant(self, job_id: str) -> _Tenant:
        name = tenant_of(job_id)
        tenant = self._tenants.get(name)
        if tenant is None:
            config = self.config
            if len(self._tenants) >= config.max_tenants:
                for idle in [other for other, books in self._tenants.items() if not books.jobs]:
                    del self._tenants[idle]
            policy = make_policy(config.policy, self._cost, config.max_pages)
            holdings = Holdings(policy, self._survival, config.max_pages, config.max_contexts, config.page_tokens)
            tenant = self._tenants[name] = _Tenant(holdings)
        return tenant

    # Looking

    def place(self, tenant: str, job: str, now: float, prompt_tokens: int | None = None) -> list[Placement]:
        """What the next turn of a job would have to rebuild on each engine, least first, its home first among equals.

        Without `prompt_tokens` the prompt is taken to be as long as the job's latest context. An unknown job has no
        home and rebuilds everything everywhere.
        """
        self._at(now)
        record = self._latest(scoped(tenant, job))
        tokens = prompt_tokens if prompt_tokens is not None else record.tokens if record else 0
        placements = []
        for engine in self._engines.values():
            copy = record.copies.get(engine.name) if record else None
            placements.append(
                Placement(
                    engine=engine.name,
                    resident_tokens=copy.tokens if copy else 0,
                    rebuild_s=self._missing_s(engine, copy.runs if copy else (), tokens),
                    home=record is not None and record.home == engine.name,
                    waiting_rebuild_s=engine.waiting_rebuild_s,
                )
            )
        return sorted(placements, key=lambda placement: (placement.rebuild_s, not placement.home, placement.engine))

    def _latest(self, job_id: str) -> Record | None:
        job = self._jobs.get(job_id)
        return max(job.contexts.values(), key=lambda record: record.idle_since, default=None) if job else None

    def snapshot(self, tenant: str | None, limit: int, now: float) -> Snapshot:
        """What is known now, of one tenant or (None) of all; at most `limit` contexts, the latest first."""
        now = self._at(now)
        recent: Iterator[Record] = reversed(self._by_id.values())
        chosen: list[ContextView] = []
        for record in recent:
            if len(chosen) == limit:
                break
            if tenant is None or tenant_of(record.job) == tenant:
                chosen.append(self._view(record, now))
        return Snapshot(
            service=self.service,
            policy=self.config.policy,
            uptime_s=now,
            engines=tuple(self._engine_view(engine, now) for engine in self._engines.values()) if not tenant else (),
            tenants=tuple(self._tenant_view(name) for name in self._tenants if tenant is None or name == tenant),
            contexts=tuple(chosen),
            pauses=self.pauses.views(),
            counts=dict(self.counts) if tenant is None else {},
            memory_bytes=0,
        )

    def _view(self, record: Record, now: float) -> ContextView:
        return ContextView(
            id=record.id,
            job=record.job,
            standing=record.standing,
            tool=record.tool,
            depth=record.depth,
            tokens=record.tokens,
            idle_s=0.0 if record.running else max(now - record.idle_since, 0.0),
            copies=tuple(
                Copy(
                    engine=name,
                    state="running" if copy.running else "idle",
                    resident_tokens=copy.tokens,
                    runs=copy.runs,
                    rebuild_s=self._missing_s(self._engines[name], copy.runs, record.tokens),
                    home=record.home == name,
                )
                for name, copy in record.copies.items()
            ),
        )

    def _engine_view(self, engine: _Engine, now: float) -> EngineView:
        return EngineView(
            name=engine.name,
            epoch=engine.epoch,
            heard_s=now - engine.heard_at,
            contexts=len(engine.copies),
            resident_tokens=engine.resident_tokens,
            capacity_tokens=engine.capacity_tokens,
            free_tokens=engine.free_tokens,
            dropped=engine.dropped,
            queued_commands=len(engine.queue),
        )

    def _tenant_view(self, name: str) -> TenantView:
        tenant = self._tenants[name]
        return TenantView(
            tenant=name,
            jobs=tenant.jobs,
            contexts=len({copy.record.number for copy in tenant.holdings}),
            resident_tokens=tenant.tokens,
            budget_tokens=self.budget_tokens(name),
            leased_tokens=tenant.leased_tokens,
            leases=tenant.leases,
        )

    def explain(self, tenant: str, job: str, now: float) -> Explanation:
        """Why a job's contexts are where they are; `missing` for a job that is not known to this tenant."""
        now = self._at(now)
        found = self._jobs.get(scoped(tenant, job))
        if found is None:
            return Explanation(job=job, outcome="missing")
        return Explanation(
            job=job,
            outcome="accepted",
            contexts=tuple(self._view(record, now) for record in found.contexts.values()),
            leases={name: lease.until - now for name, lease in found.leases.items()},
            decisions=tuple(found.decisions),
            paid_s=found.paid_s,
            saved_s=found.saved_s,
        )

    def _note(self, job_id: str, what: str) -> None:
        if job := self._jobs.get(job_id):
            job.decisions.append(what)

    def _count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def __len__(self) -> int:
        """Contexts known now."""
        return len(self._by_id)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        for name, tenant in self._tenants.items():
            tenant.holdings.check()
            copies = list(tenant.holdings)
            _equal(f"tokens of tenant {name!r}", sum(copy.tokens for copy in copies), tenant.tokens)
            jobs = [job for job in self._jobs.values() if tenant_of(job.id) == name]
            _equal(f"jobs of tenant {name!r}", len(jobs), tenant.jobs)
            _equal(f"leased tokens of {name!r}", sum(map(_leased_tokens, jobs)), tenant.leased_tokens)
            _equal(f"leases of {name!r}", sum(len(job.leases) for job in jobs), tenant.leases)
        _equal("pages", sum(tenant.holdings.pages for tenant in self._tenants.values()), self._pages)
        _equal("contexts", len(self._records), len(self._by_id))
        _equal("contexts of jobs", sum(len(job.contexts) for job in self._jobs.values()), len(self._by_id))
        of_engines = sum(len(engine.copies) for engine in self._engines.values())
        _equal("copies", sum(len(record.copies) for record in self._by_id.values()), of_engines)
        _equal("leased jobs", sum(bool(job.leases) for job in self._jobs.values()), len(self._leased))
        if len(self._by_id) > self.config.max_contexts or self._pages > self.config.max_pages:
            raise CheckFailed(f"{len(self._by_id)} contexts or {self._pages} pages are over their bounds")
        for record in self._by_id.values():
            if (record.home is None) != (not record.copies) or (record.home and record.home not in record.copies):
                raise CheckFailed(f"{record.id} has its home in {record.home}, copies in {list(record.copies)}")


def _leased_tokens(job: _Job) -> int:
    return max((lease.tokens for lease in job.leases.values()), default=0)


def _equal(what: str, counted: int, written: int) -> None:
    if counted != written:
        raise CheckFailed(f"{what}: {counted} counted, {written} written down")
