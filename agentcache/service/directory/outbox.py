"""What the directory decides, as commands that wait for the engines' next reports."""

from agentcache.api.messages import MAX_TTL_S, Command, Evict, Release, Retain, ToolBegan, ToolEnded
from agentcache.service.directory.books import QUEUE, Books, KnownEngine, KnownJob
from agentcache.service.directory.holdings import Held


class Outbox:
    """Numbers commands, puts them into the queues of engines, and writes down for jobs what was decided."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._commands = 0

    def clear(self, copy: Held, end: int, why: str, now: float) -> None:
        """Evict all of an idle copy, which has tokens up to `end` at most."""
        tenant = self._books.tenant(copy.record.job)
        tokens, pages = copy.tokens, tenant.holdings.pages
        tenant.holdings.clear(copy, now)
        self._books.held(self._books.engines[copy.engine], tenant, -tokens)
        self._books.pages += tenant.holdings.pages - pages
        self.evict(copy, 0, end, tokens, why)

    def evict(self, copy: Held, start: int, end: int, tokens: int, why: str) -> None:
        """Tell an engine to evict a range, in which the books have counted so many tokens out."""
        self._send(self._books.engines[copy.engine], Evict(self._next(), copy.local_id, start, end, why))
        self._books.count("evictions")
        self._books.count("evicted_tokens", tokens)
        self._books.note(copy.record.job, f"evict {tokens} tokens of {copy.record.id} in {copy.engine}: {why}")

    def end(self, job: KnownJob, now: float, told_by: str | None = None) -> None:
        """A job has ended: its contexts go first everywhere."""
        if job.ended:
            return
        job.ended = True
        self._books.drop_leases(job)
        holdings = self._books.tenant(job.id).holdings
        for record in job.contexts.values():
            self._books.stand(record, "ended")
            holdings.end(record, now)
        self.release(job, "job ended", told_by)
        self._books.count("jobs_ended")

    def release(self, job: KnownJob, why: str, told_by: str | None = None) -> None:
        """Tell all engines that hold something of a job, but the one that said so, to give up its place."""
        for name, local_job in sorted(job.places):
            if name != told_by:
                self._send(self._books.engines[name], Release(self._next(), local_job, why))
                self._books.note(job.id, f"release in {name}: {why}")

    def retain(self, job: KnownJob, ttl_s: float, keep_priority: int) -> None:
        """Tell all engines that hold something of a job of a lease."""
        for name, local_job in sorted(job.places):
            self._send(self._books.engines[name], Retain(self._next(), local_job, ttl_s, keep_priority, "lease"))

    def retain_copy(self, engine: KnownEngine, copy: Held, job: KnownJob, now: float) -> None:
        """Tell one engine of a job's longest lease."""
        lease = max(job.leases.values(), key=lambda lease: lease.until)
        if (ttl_s := min(lease.until - now, MAX_TTL_S)) > 0:
            self._send(engine, Retain(self._next(), copy.local_job, ttl_s, lease.keep_priority, "lease"))

    def remind(self, engine: KnownEngine, now: float) -> None:
        """An engine has shown all it holds: it may have missed leases and ends."""
        told: set[str] = set()
        for copy in engine.copies.values():
            job = self._books.jobs[copy.record.job]
            if job.id not in told and (job.leases or job.ended):
                told.add(job.id)
                if job.leases:
                    self.retain_copy(engine, copy, job, now)
                elif copy.record.standing != "ended":
                    self._send(engine, Release(self._next(), copy.local_job, "job ended"))

    def tool_began(self, job: KnownJob, tool: str, expected_s: float | None) -> None:
        for name, local_job in sorted(job.places):
            self._send(self._books.engines[name], ToolBegan(self._next(), local_job, tool, expected_s))

    def tool_ended(self, job: KnownJob, tool: str) -> None:
        for name, local_job in sorted(job.places):
            self._send(self._books.engines[name], ToolEnded(self._next(), local_job, tool))

    def _send(self, engine: KnownEngine, command: Command) -> None:
        if len(engine.queue) == QUEUE:
            self._books.count("commands_dropped")
            engine.resync = True
        engine.queue.append(command)

    def _next(self) -> int:
        self._commands += 1
        return self._commands
