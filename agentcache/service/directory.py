"""The directory: which contexts the cluster knows, which engine holds how much of each, and what should change.

Plain and synchronous: messages and the time go in, messages come out. It opens nothing, waits for nothing and knows
nothing of Ray; `actor` puts it on the network. What it holds can be lost: engines announce themselves again.
"""

import time
from uuid import uuid4

import msgspec

from agentcache.api.messages import (
    MAX_TTL_S,
    Action,
    Answer,
    Command,
    ContextState,
    EndJob,
    EndTurn,
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
    Snapshot,
    StartJob,
    StartTool,
    ToolBegan,
    ToolEnded,
    scoped,
    tenant_of,
)
from agentcache.service import views
from agentcache.service.books import QUEUE, Books, DirectoryConfig, Engine, Job, Lease, leased_tokens
from agentcache.service.clock import SteadyClock
from agentcache.service.holdings import Held, Record
from agentcache.service.pauses import PauseExchange

__all__ = ["Directory", "DirectoryConfig"]

_ANSWERS = 4096
_PAUSES_A_REPLY = 200
_TICK_S = 0.25


class Directory:
    """The cluster's residency. Every call takes the time in seconds, from any clock: one that goes back stands still,
    and one that leaps, because the process or its machine slept, costs nobody its lease or its heartbeat.
    """

    def __init__(self, config: DirectoryConfig | None = None, incarnation: float | None = None) -> None:
        """Raises `ConfigError` for options that cannot be used."""
        self.config = config = config or DirectoryConfig()
        self.service = uuid4().hex[:12]
        self.incarnation = time.time() if incarnation is None else incarnation
        self.period_s = config.period_s  # longer while whoever runs this has more to do than it can
        self.pauses = PauseExchange()
        self._books = Books(config)
        self._clock = SteadyClock(config.heartbeat_s / 2)
        self._over: set[str] = set()  # tenants whose use has grown
        self._numbers = 0
        self._commands = 0
        self._ticked_at = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """What has happened so far."""
        return self._books.counts | {"clock_leaps": self._clock.leaps}

    def __len__(self) -> int:
        """Contexts known now."""
        return len(self._books.by_id)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self._books.check()

    # Engines

    def report(self, report: Report, now: float) -> Reply:
        """Take a batch of deltas in; returns what the engine should do and go by."""
        now = self._clock.at(now)
        engine = self._books.engines.get(report.engine)
        if engine is None or engine.epoch != report.epoch:
            if engine is not None:
                self._lose(engine, "restarted")
            engine = self._books.engines[report.engine] = Engine(report.engine, report.epoch, now)
            engine.resync = not report.full
            self.pauses.forget(report.engine)
        elif report.seq <= engine.seq:
            self._books.count("reports_repeated")
            return self._reply(engine)
        elif report.seq != engine.seq + 1:
            self._books.count("reports_missed", report.seq - engine.seq - 1)
            engine.resync = True
        self._books.count("reports")
        engine.heard_at, engine.seq = now, report.seq
        engine.capacity_tokens, engine.free_tokens = report.capacity_tokens, report.free_tokens
        engine.resync |= report.dropped > engine.dropped  # what it lost it must show again
        engine.waiting_rebuild_s, engine.dropped = report.waiting_rebuild_s, report.dropped
        engine.c_lin, engine.c_att = report.c_lin or self.config.c_lin, report.c_att or self.config.c_att
        self.pauses.hear(report.engine, report.pauses)
        for done in report.done:
            engine.sent.pop(done.command, None)
            self._books.count(f"commands_{done.outcome}")
        if report.full:
            engine.resync = False
            named = {state.id for state in report.contexts}
            for local_id in [name for name in engine.copies if name not in named]:
                self._gone(engine, local_id, now)
            if engine.sent:
                self._books.count("commands_lost", len(engine.sent))
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

    def _reply(self, engine: Engine) -> Reply:
        commands = []
        while engine.queue:
            command = engine.queue.popleft()
            engine.sent[command.id] = self._clock.now
            commands.append(command)
        return Reply(
            service=self.service,
            incarnation=self.incarnation,
            seq=engine.seq,
            resync=engine.resync,
            parameters=Parameters(period_s=self.period_s, pauses=self.pauses.tell(engine.name, _PAUSES_A_REPLY)),
            commands=tuple(commands),
        )

    def _state(self, engine: Engine, state: ContextState, now: float) -> None:
        """A context as an engine has it: a new copy, a turn that came or went, or blocks that did."""
        copy = engine.copies.get(state.id)
        fresh = copy is None
        if copy is None:
            copy = self._new_copy(engine, state, now)
        record = copy.record
        job = self._books.jobs[record.job]
        was_running, came_back = copy.running, state.state == "running" and not copy.running
        holdings = self._books.tenant(record.job)
        if came_back and record.depth:
            self._account(job, engine, copy, record.tokens)
        self._books.by_id.move_to_end(record.id)
        if came_back or was_running:
            job.touched_at = now
            self._books.jobs.move_to_end(job.id)
        before, pages = copy.tokens, holdings.holdings.pages
        holdings.holdings.show(copy, state, now)
        self._books.held(engine, holdings, copy.tokens - before)
        self._books.pages += holdings.holdings.pages - pages
        later = fresh and now - state.idle_s > record.idle_since
        newest = record.home is None or state.state == "running" or was_running or later
        if newest:
            record.home = engine.name
            record.tokens, record.tool, record.depth = state.tokens, state.tool, state.depth
            record.idle_since = now - state.idle_s
            if state.state == "running" and job.ended:  # it was not the end
                job.ended = False
        if record.home == engine.name:  # an overtaken copy may stand as it did long ago
            if state.standing == "ended" != record.standing:
                holdings.holdings.end(record, now)
            record.standing = state.standing
        if copy.tokens > before:
            self._over.add(tenant_of(record.job))
        if job.leases and (newest or before == 0):
            self._retain(engine, copy, job, now)
        if state.state == "idle" and (was_running or fresh):
            self._rested(engine, record, job, now)

    def _new_copy(self, engine: Engine, state: ContextState, now: float) -> Held:
        job_id, record_id = self._names(engine, state)
        job = self._books.job(job_id, now)
        record = job.contexts.get(record_id)
        if record is None:
            self._numbers += 1
            record = Record(self._numbers, record_id, job_id, idle_since=now - state.idle_s)
            self._books.tenant(job_id).contexts += 1
            self._books.records[record.number] = self._books.by_id[record_id] = job.contexts[record_id] = record
        copy = engine.copies[state.id] = Held(engine.name, record, state.id, state.job)
        record.copies[engine.name] = copy
        return copy

    def _names(self, engine: Engine, state: ContextState) -> tuple[str, str]:
        """The cluster's names of a job and context: an engine's own inventions are told apart by its name."""
        if state.id.startswith("~"):
            return f"{engine.name}:{state.job}", f"{engine.name}:{state.id}"
        if state.id.startswith(own := f"{state.job}#"):
            # Named by its job alone: the first one of a job that an engine shows is taken for the job's own.
            job = self._books.jobs.get(state.job)
            first = job.contexts.get(own) if job else None
            return state.job, f"{engine.name}:{state.id}" if first and engine.name in first.copies else own
        known = self._books.by_id.get(state.id)
        return known.job if known else state.job, state.id

    def _account(self, job: Job, engine: Engine, copy: Held, tokens: int) -> None:
        """A turn came back: what its old context costs there now, and what it does not."""
        paid = self._books.missing_s(engine, copy.runs, tokens)
        job.paid_s += paid
        job.saved_s += self._books.missing_s(engine, (), tokens) - paid

    def _gone(self, engine: Engine, local_id: str, now: float) -> None:
        copy = engine.copies.pop(local_id, None)
        if copy is None:
            return
        record = copy.record
        tenant = self._books.tenant(record.job)
        self._books.held(engine, tenant, -copy.tokens)
        pages = tenant.holdings.pages
        tenant.holdings.drop(copy, now)
        self._books.pages += tenant.holdings.pages - pages
        del record.copies[engine.name]
        if record.home == engine.name:
            record.home = max(record.copies, key=lambda name: record.copies[name].tokens, default=None)
        if not record.copies:
            self._forget(record, now)

    def _forget(self, record: Record, now: float) -> None:
        """No engine knows a context any more."""
        for copy in list(record.copies.values()):
            self._gone(self._books.engines[copy.engine], copy.local_id, now)
        if self._books.records.pop(record.number, None) is None:
            return
        tenant = self._books.tenant(record.job)
        tenant.holdings.end(record, now)
        tenant.contexts -= 1
        del self._books.by_id[record.id]
        job = self._books.jobs[record.job]
        del job.contexts[record.id]
        if not job.contexts and not job.leases:
            self._books.close(job)

    def _lose(self, engine: Engine, why: str) -> None:
        """An engine and all that it held are gone."""
        self._books.count(f"engines_{why}")
        for local_id in list(engine.copies):
            self._gone(engine, local_id, self._clock.now)
        del self._books.engines[engine.name]
        self.pauses.forget(engine.name)

    # Decisions

    def _rested(self, engine: Engine, record: Record, job: Job, now: float) -> None:
        """A context is idle here: copies that its latest turn has overtaken are spare, and an end is everybody's."""
        if all(one.standing == "ended" for one in job.contexts.values()):
            self._end(job, now, told_by=engine.name)
        if self.config.duplicates and not record.running:
            for copy in record.copies.values():
                if copy.engine != record.home and copy.tokens:
                    self._evict(copy, 0, max(record.tokens, copy.runs[-1][1]), "duplicate", now)

    def _evict(self, copy: Held, start: int, end: int, why: str, now: float) -> None:
        """Evict all of an idle copy."""
        tenant = self._books.tenant(copy.record.job)
        tokens, pages = copy.tokens, tenant.holdings.pages
        tenant.holdings.clear(copy, now)
        self._books.held(self._books.engines[copy.engine], tenant, -tokens)
        self._books.pages += tenant.holdings.pages - pages
        self._order(copy, Evict(self._next(), copy.local_id, start, end, why), tokens)

    def _order(self, copy: Held, command: Evict, tokens: int) -> None:
        self._send(self._books.engines[copy.engine], command)
        self._books.count("evictions")
        self._books.count("evicted_tokens", tokens)
        self._books.note(
            copy.record.job, f"evict {tokens} tokens of {copy.record.id} in {copy.engine}: {command.reason}"
        )

    def _end(self, job: Job, now: float, told_by: str | None = None) -> None:
        """A job has ended: its contexts go first everywhere."""
        if job.ended:
            return
        job.ended = True
        self._books.drop_leases(job)
        holdings = self._books.tenant(job.id).holdings
        for record in job.contexts.values():
            record.standing = "ended"
            holdings.end(record, now)
        self._release(job, "job ended", told_by)
        self._books.count("jobs_ended")

    def _release(self, job: Job, why: str, told_by: str | None = None) -> None:
        for name, local_job in sorted(self._books.places(job)):
            if name != told_by:
                self._send(self._books.engines[name], Release(self._next(), local_job, why))
                self._books.note(job.id, f"release in {name}: {why}")

    def _retain(self, engine: Engine, copy: Held, job: Job, now: float) -> None:
        """Tell an engine of a job's longest lease."""
        lease = max(job.leases.values(), key=lambda lease: lease.until)
        if (ttl_s := min(lease.until - now, MAX_TTL_S)) > 0:
            self._send(engine, Retain(self._next(), copy.local_job, ttl_s, lease.keep_priority, "lease"))

    def _remind(self, engine: Engine, now: float) -> None:
        """An engine has shown all it holds: it may have missed leases and ends."""
        told: set[str] = set()
        for copy in engine.copies.values():
            job = self._books.jobs[copy.record.job]
            if job.id not in told and (job.leases or job.ended):
                told.add(job.id)
                if job.leases:
                    self._retain(engine, copy, job, now)
                elif copy.record.standing != "ended":
                    self._send(engine, Release(self._next(), copy.local_job, "job ended"))

    def _send(self, engine: Engine, command: Command) -> None:
        if len(engine.queue) == QUEUE:
            self._books.count("commands_dropped")
            engine.resync = True
        engine.queue.append(command)

    def _next(self) -> int:
        self._commands += 1
        return self._commands

    # The clock

    def tick(self, now: float) -> None:
        """Let time pass: silent engines, expired leases, idle contexts. To be called every half heartbeat or more."""
        self._tick(self._clock.at(now))

    def _tick(self, now: float) -> None:
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            for engine in list(self._books.engines.values()):
                if now - engine.heard_at > self.config.heartbeat_s:
                    self._lose(engine, "silent")
                elif engine.sent and now - next(iter(engine.sent.values())) > self.config.ack_s:
                    engine.resync = True
            for job in list(self._books.leased.values()):
                self._expire(job, now)
            self._age(now)
        for name in list(self._over):
            self._keep_budget(name, now)
        self._over.clear()
        self._bound(now)

    def _expire(self, job: Job, now: float) -> None:
        for lease_id in [name for name, lease in job.leases.items() if lease.until <= now]:
            self._books.drop_lease(job, lease_id)
            self._books.count("leases_expired")
            self._books.note(job.id, f"lease {lease_id} expired")
        if not job.leases and not job.contexts:
            self._books.close(job)

    def _age(self, now: float) -> None:
        """Jobs that nobody touched for long are forgotten, with their contexts."""
        while self._books.jobs:
            job = next(iter(self._books.jobs.values()))
            if now - job.touched_at <= self.config.idle_out_s:
                return
            if job.leases or any(record.running for record in job.contexts.values()):
                job.touched_at = now
                self._books.jobs.move_to_end(job.id)
                continue
            self._books.count("contexts_aged_out", len(job.contexts))
            self._forget_job(job, now)

    def _forget_job(self, job: Job, now: float) -> None:
        for record in list(job.contexts.values()):
            self._forget(record, now)
        if job.id in self._books.jobs:
            self._books.close(job)

    def _bound(self, now: float) -> None:
        """Keep to the bounds on memory: the contexts that were used longest ago go."""
        config = self.config
        while len(self._books.by_id) > config.max_contexts or self._books.pages > config.max_pages:
            record = next((record for record in self._books.by_id.values() if not record.running), None)
            record = record or next(iter(self._books.by_id.values()))
            self._forget(record, now)
            self._books.count("contexts_crowded_out")
        while len(self._books.jobs) > config.max_contexts:
            self._forget_job(next(iter(self._books.jobs.values())), now)
            self._books.count("jobs_crowded_out")

    def _keep_budget(self, name: str, now: float) -> None:
        """A tenant's use has grown: what is worth least goes, until it fits its budget."""
        budget = self._books.budget_tokens(name)
        tenant = self._books.tenants.get(name)
        if budget is None or tenant is None or (over := tenant.tokens - budget) <= 0:
            return
        leased = (job for job in self._books.leased.values() if tenant_of(job.id) == name)
        excluded = tenant.holdings.blocks(record for job in leased for record in job.contexts.values())
        pages = tenant.holdings.pages
        for copy, start, end, tokens in tenant.holdings.evict(over, excluded, self._books.records, now):
            self._order(copy, Evict(self._next(), copy.local_id, start, end, "tenant over budget"), tokens)
            self._books.held(self._books.engines[copy.engine], tenant, -tokens)
        self._books.pages += tenant.holdings.pages - pages

    # Jobs

    def apply(self, action: Action, tenant: str, now: float) -> Answer:
        """Do what a client says about a job of its tenant's. One `request_id` is carried out once."""
        now = self._clock.at(now)
        books = self._books.tenant(scoped(tenant, action.job))
        if action.request_id and (known := books.answers.get(action.request_id)):
            self._books.count("actions_repeated")
            return known
        answer = self._apply(action, scoped(tenant, action.job), now)
        self._books.count(f"actions_{answer.outcome}")
        if action.request_id:
            answer = msgspec.structs.replace(answer, request_id=action.request_id)
            books.answers[action.request_id] = answer
            if len(books.answers) > _ANSWERS:
                books.answers.popitem(last=False)
        return answer

    def _apply(self, action: Action, job_id: str, now: float) -> Answer:
        match action:
            case StartJob():
                job = self._books.job(job_id, now)
                job.ended = False
                return Answer(outcome="accepted")
            case RetainJob():
                return self._lease(action, job_id, now)
        known = self._books.jobs.get(job_id)
        if known is None:
            return Answer(outcome="missing", detail=f"no job {action.job!r} is known")
        known.touched_at = now
        self._books.jobs.move_to_end(job_id)
        match action:
            case EndJob():
                self._end(known, now)
            case ReleaseJob():
                self._books.drop_leases(known)
                self._release(known, "asked")
            case StartTool(tool=tool, expected_s=expected_s):
                for name, local_job in sorted(self._books.places(known)):
                    self._send(self._books.engines[name], ToolBegan(self._next(), local_job, tool, expected_s))
            case FinishTool(tool=tool):
                for name, local_job in sorted(self._books.places(known)):
                    self._send(self._books.engines[name], ToolEnded(self._next(), local_job, tool))
            case EndTurn(last=True):
                self._end(known, now)
        return Answer(outcome="accepted" if known.contexts else "deferred")

    def _lease(self, action: RetainJob, job_id: str, now: float) -> Answer:
        config = self.config
        tenant = self._books.tenant(job_id)
        job = self._books.jobs.get(job_id)
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
            self._books.drop_lease(job, lease_id)
        before = leased_tokens(job)
        job.leases[lease_id] = Lease(now + granted_s, action.keep_priority, tokens)
        tenant.leased_tokens += leased_tokens(job) - before
        tenant.leases += 1
        self._books.leased[job_id] = job
        job.touched_at = now
        self._books.note(job_id, f"lease {lease_id} for {granted_s:g} s")
        for name, local_job in sorted(self._books.places(job)):
            self._send(
                self._books.engines[name], Retain(self._next(), local_job, granted_s, action.keep_priority, "lease")
            )
        outcome = "clipped" if granted_s < action.ttl_s else "accepted" if job.contexts else "deferred"
        return Answer(
            outcome=outcome,  # type: ignore[arg-type]
            detail="" if job.contexts else "no engine holds anything of the job yet",
            lease=lease_id,
            granted_s=granted_s,
            granted_priority=action.keep_priority,
        )

    # Looking

    def place(self, tenant: str, job: str, now: float, prompt_tokens: int | None = None) -> list[Placement]:
        """What the next turn of a job would have to rebuild on each engine, least first, its home first among equals.

        Without `prompt_tokens` the prompt is taken to be as long as the job's latest context. An unknown job has no
        home and rebuilds everything everywhere.
        """
        self._clock.at(now)
        return views.place(self._books, tenant, job, prompt_tokens)

    def snapshot(self, tenant: str | None, limit: int, now: float) -> Snapshot:
        """What is known now, of one tenant or (None) of all; at most `limit` contexts, the latest first."""
        seen = views.snapshot(self._books, tenant, limit, self._clock.at(now))
        counts = self.counts if tenant is None else {}
        return msgspec.structs.replace(seen, service=self.service, pauses=self.pauses.views(), counts=counts)

    def explain(self, tenant: str, job: str, now: float) -> Explanation:
        """Why a job's contexts are where they are; `missing` for a job that is not known to this tenant."""
        return views.explain(self._books, tenant, job, self._clock.at(now))
