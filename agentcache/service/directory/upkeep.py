"""What time does to the books, and what keeps them small: silence, expiry, age, bounds, budgets."""

from agentcache.service.directory.books import Books, KnownJob
from agentcache.service.directory.census import Census
from agentcache.service.directory.holdings import Record
from agentcache.service.directory.outbox import Outbox
from agentcache.service.directory.shared_pauses import PauseExchange

_TICK_S = 0.25
_AT_ONCE = 1024
"""Contexts or jobs that are forgotten at one tick: reports wait for it."""


class Upkeep:
    """To be called after everything that changes the books, and every half heartbeat or more."""

    def __init__(self, books: Books, census: Census, outbox: Outbox, pauses: PauseExchange) -> None:
        self._books, self._census, self._outbox, self._pauses = books, census, outbox, pauses
        self._ticked_at = self._era_began = 0.0

    def tick(self, now: float) -> None:
        config = self._books.config
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            for engine in list(self._books.engines.values()):
                if now - engine.heard_at > config.heartbeat_s:
                    if self._census.lose(engine, "silent", now, _AT_ONCE):
                        self._pauses.forget(engine.name)
                elif engine.sent and now - next(iter(engine.sent.values())) > config.ack_s:
                    engine.resync = True
            self._expire(now)
            self._age(now)
            if now - self._era_began >= config.idle_out_s:
                self._era_began = now
                self._books.era += 1
                self._books.drop_tenants(self._books.era - 2)
        for name in list(self._books.over):
            self._keep_budget(name, now)
        self._books.over.clear()
        self._bound(now)

    def _expire(self, now: float) -> None:
        books = self._books
        while books.expiries and books.expiries[0][0] <= now:
            _, job_id, lease_id = books.expiries[0]
            job = books.jobs[job_id]
            books.drop_lease(job, lease_id)
            books.count("leases_expired")
            books.note(job_id, f"lease {lease_id} expired")
            if not job.leases and not job.contexts:
                books.close(job)

    def _age(self, now: float) -> None:
        """Jobs that nobody touched for long are forgotten, with their contexts."""
        for _ in range(_AT_ONCE):
            job = next(iter(self._books.jobs.values()), None)
            if job is None or now - job.touched_at <= self._books.config.idle_out_s:
                return
            if job.leases or any(record.running for record in job.contexts.values()):
                job.touched_at = now
                self._books.jobs.move_to_end(job.id)
                continue
            self._books.count("contexts_aged_out", len(job.contexts))
            self._forget_job(job, now)

    def _forget_job(self, job: KnownJob, now: float) -> None:
        for record in list(job.contexts.values()):
            self._census.forget(record, now)
        if job.id in self._books.jobs:
            self._books.close(job)

    def _bound(self, now: float) -> None:
        """Keep to the bounds on memory: the contexts that were used longest ago go."""
        books, config = self._books, self._books.config
        while len(books.by_id) > config.max_contexts or books.pages > config.max_pages:
            self._census.forget(self._oldest(), now)
            books.count("contexts_crowded_out")
        while len(books.jobs) > config.max_contexts:
            self._forget_job(next(iter(books.jobs.values())), now)
            books.count("jobs_crowded_out")

    def _oldest(self) -> Record:
        """The idle context that changed longest ago, or any if all of them run."""
        books = self._books
        for _ in range(len(books.by_id)):
            record = next(iter(books.by_id.values()))
            if not record.running:
                break
            books.touch(record)
        return record

    def _keep_budget(self, name: str, now: float) -> None:
        """A tenant's use has grown: what is worth least goes, until it fits its budget."""
        books = self._books
        budget = books.budget_tokens(name)
        tenant = books.tenants.get(name)
        if budget is None or tenant is None or (over := tenant.tokens - budget) <= 0:
            return
        leased = tenant.leased.values()
        excluded = tenant.holdings.blocks(record for job in leased for record in job.contexts.values())
        pages = tenant.holdings.pages
        for copy, start, end, tokens in tenant.holdings.evict(over, excluded, books.records, now):
            self._outbox.evict(copy, start, end, tokens, "tenant over budget")
            books.held(books.engines[copy.engine], tenant, -tokens)
        books.pages += tenant.holdings.pages - pages
