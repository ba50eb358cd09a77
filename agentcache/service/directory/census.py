"""What engines hold, as they show it: contexts come, run, rest, and go."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from msgspec.structs import replace

from agentcache.api.messages import ContextState, tenant_of
from agentcache.service.directory.books import Books, KnownEngine, KnownJob
from agentcache.service.directory.holdings import Held, Record
from agentcache.service.directory.outbox import Outbox

UNSEEN_TURNS = 8
"""Turns of one context that are told from one report: of more within its period, the others do not count."""


class Census:
    """Enters into the books what engines show, and has done what follows from it."""

    def __init__(self, books: Books, outbox: Outbox) -> None:
        self._books, self._outbox = books, outbox
        self._numbers = 0

    def show(self, engine: KnownEngine, state: ContextState, now: float, since: float) -> None:
        """A context as an engine has it now: a new copy, a turn that came or went, or blocks that did.

        `since` is when the engine reported before: what has come to rest after it has run after it.
        """
        copy = engine.copies.get(state.id)
        fresh = copy is None
        ran = fresh and now - state.idle_s > since
        if copy is None:
            copy = self._new_copy(engine, state, ran, now)
        for missed in _missed(copy, state, ran):
            self._enter(engine, copy, missed, fresh, now)
            fresh = False
        self._enter(engine, copy, state, fresh, now)

    def _enter(self, engine: KnownEngine, copy: Held, state: ContextState, fresh: bool, now: float) -> None:
        books, record = self._books, copy.record
        job = books.jobs[record.job]
        was_running, came_back = copy.running, state.state == "running" and not copy.running
        tenant = books.tenant(record.job)
        if came_back and record.depth:
            self._account(job, engine, copy, record.tokens)
        books.touch(record)
        if came_back or was_running:
            job.touched_at = now
            books.jobs.move_to_end(job.id)
        before, pages = copy.tokens, tenant.holdings.pages
        tenant.holdings.show(copy, state, now)
        books.held(engine, tenant, copy.tokens - before)
        books.pages += tenant.holdings.pages - pages
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
                tenant.holdings.end(record, now)
            books.stand(record, state.standing)
        if copy.tokens > before:
            books.over.add(tenant_of(record.job))
        if job.leases and (newest or before == 0):
            self._outbox.retain_copy(engine, copy, job, now)
        if state.state == "idle" and (was_running or fresh):
            self._rested(engine, record, job, now)

    def _new_copy(self, engine: KnownEngine, state: ContextState, ran: bool, now: float) -> Held:
        job_id, record_id = self._names(engine, state, ran)
        job = self._books.job(job_id, now)
        record = job.contexts.get(record_id)
        if record is None:
            self._numbers += 1
            record = Record(self._numbers, record_id, job_id, idle_since=now - state.idle_s)
            self._books.enter(record, job)
        copy = Held(engine.name, record, state.id, state.job, depth=state.depth, length=state.tokens)
        engine.copies[state.id] = record.copies[engine.name] = copy
        job.places[engine.name, state.job] += 1
        return copy

    def _names(self, engine: KnownEngine, state: ContextState, ran: bool) -> tuple[str, str]:
        """The cluster's names of a job and context: an engine's own inventions are told apart by its name."""
        if state.id.startswith("~"):
            return f"{engine.name}:{state.job}", f"{engine.name}:{state.id}"
        if state.id.startswith(own := f"{state.job}#"):
            # Named by its job alone, it is that job's own if there is no other, or if it goes on from the only other:
            # it has just run, elsewhere, and is no shorter. Whatever else appears is another agent of the same tree.
            job = self._books.jobs.get(state.job)
            others = dict(job.contexts) if job else {}
            first = others.pop(own, None)
            goes_on = not others and first and ran and engine.name not in first.copies and state.tokens >= first.tokens
            return state.job, own if goes_on or not (first or others) else f"{engine.name}:{state.id}"
        known = self._books.by_id.get(state.id)
        return known.job if known else state.job, state.id

    def _account(self, job: KnownJob, engine: KnownEngine, copy: Held, tokens: int) -> None:
        """A turn came back: what its old context costs there now, and what it does not."""
        paid = self._books.missing_s(engine, copy.runs, tokens, copy.below)
        job.paid_s += paid
        job.saved_s += self._books.missing_s(engine, (), tokens) - paid

    def _rested(self, engine: KnownEngine, record: Record, job: KnownJob, now: float) -> None:
        """A context is idle here: copies that its latest turn has overtaken are spare, and an end is everybody's."""
        if not job.waiting:
            self._outbox.end(job, now, told_by=engine.name)
        if self._books.config.duplicates and not record.running:
            for copy in record.copies.values():
                if copy.engine != record.home and copy.tokens:
                    self._outbox.clear(copy, max(record.tokens, copy.runs[-1][1]), "duplicate", now)

    def gone(self, engine: KnownEngine, local_id: str, now: float) -> None:
        """An engine has forgotten a context."""
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
        places = self._books.jobs[record.job].places
        places[engine.name, copy.local_job] -= 1
        places += Counter()  # without what is not there any more
        if record.home == engine.name:
            record.home = max(record.copies, key=lambda name: record.copies[name].tokens, default=None)
        if not record.copies:
            self.forget(record, now)

    def forget(self, record: Record, now: float) -> None:
        """No engine knows a context any more, or the directory has no room for it."""
        for copy in list(record.copies.values()):
            self.gone(self._books.engines[copy.engine], copy.local_id, now)
        if record.number not in self._books.records:
            return
        self._books.tenant(record.job).holdings.end(record, now)
        self._books.strike(record)
        job = self._books.jobs[record.job]
        if not job.contexts and not job.leases:
            self._books.close(job)

    def lose(self, engine: KnownEngine, why: str, now: float, at_most: int | None = None) -> bool:
        """An engine and all that it held are gone; of that, so many contexts at a time. Returns whether that was all.

        Should it be heard of before, it must show again what it holds.
        """
        engine.resync = True
        for local_id in list(islice(engine.copies, at_most)):
            self.gone(engine, local_id, now)
        if engine.copies:
            return False
        self._books.count(f"engines_{why}")
        del self._books.engines[engine.name]
        return True


def _missed(copy: Held, state: ContextState, ran: bool) -> Iterator[ContextState]:
    """What happened to a copy before it stood as it does: turns shorter than the engine's report period.

    Depth counts the turns that ended. A context that rests, and has another length than before, has had one too, and
    so has a new one that `ran`.
    """
    ended = max(state.depth - copy.depth, 0)
    both_idle = state.state == "idle" and not copy.running
    if both_idle and (ran or (state.depth, state.tokens) != (copy.depth, copy.length)):
        ended = max(ended, 1)
    steps = ["running", "idle"] * min(ended, UNSEEN_TURNS) + ["running"] * (state.state == "running")
    for step in steps[copy.running : -1]:
        # What a turn finds is what the one before it has left, and that was there when the report was made.
        yield replace(state, state=step, runs=copy.runs if step == "running" else state.runs)
