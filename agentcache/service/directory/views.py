"""Looking into the directory's books: what is known, and why."""

from itertools import islice

from agentcache.api.messages import (
    ContextView,
    Copy,
    EngineView,
    Explanation,
    Snapshot,
    TenantView,
    scoped,
)
from agentcache.service.directory.books import Books, KnownEngine
from agentcache.service.directory.holdings import Record


def snapshot(books: Books, tenant: str | None, limit: int, now: float) -> Snapshot:
    """What is known now, of one tenant or (None) of all; at most `limit` contexts, the latest first."""
    tenants = list(books.tenants) if tenant is None else [tenant] if tenant in books.tenants else []
    known = books.by_id if tenant is None else books.tenants[tenant].contexts if tenants else {}
    recent = islice(reversed(known.values()), limit)
    return Snapshot(
        service="",
        policy=books.config.policy,
        uptime_s=now,
        engines=tuple(_engine_view(engine, now) for engine in books.engines.values()) if not tenant else (),
        tenants=tuple(_tenant_view(books, name) for name in tenants),
        contexts=tuple(_view(books, record, now) for record in recent),
        pauses=(),
        counts=dict(books.counts) if tenant is None else {},
        memory_bytes=0,
    )


def _view(books: Books, record: Record, now: float) -> ContextView:
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
                rebuild_s=books.missing_s(books.engines[name], copy.runs, record.tokens, copy.below),
                below=copy.below,
                home=record.home == name,
            )
            for name, copy in record.copies.items()
        ),
    )


def _engine_view(engine: KnownEngine, now: float) -> EngineView:
    return EngineView(
        name=engine.name,
        epoch=engine.epoch,
        heard_s=now - engine.heard_at,
        contexts=len(engine.copies),
        resident_tokens=engine.tokens,
        capacity_tokens=engine.capacity_tokens,
        free_tokens=engine.free_tokens,
        dropped=engine.dropped,
        queued_commands=len(engine.queue),
    )


def _tenant_view(books: Books, name: str) -> TenantView:
    tenant = books.tenants[name]
    return TenantView(
        tenant=name,
        jobs=tenant.jobs,
        contexts=len(tenant.contexts),
        resident_tokens=tenant.tokens,
        budget_tokens=books.budget_tokens(name),
        leased_tokens=tenant.leased_tokens,
        leases=tenant.leases,
    )


def explain(books: Books, tenant: str, job: str, now: float) -> Explanation:
    """Why a job's contexts are where they are; `missing` for a job that is not known to this tenant."""
    found = books.jobs.get(scoped(tenant, job))
    if found is None:
        return Explanation(job=job, outcome="missing")
    return Explanation(
        job=job,
        outcome="accepted",
        contexts=tuple(_view(books, record, now) for record in found.contexts.values()),
        leases={name: lease.until - now for name, lease in found.leases.items()},
        decisions=tuple(found.decisions),
        paid_s=found.paid_s,
        saved_s=found.saved_s,
    )
