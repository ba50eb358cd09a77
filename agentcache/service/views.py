"""Looking into the directory's books: where a turn could go, what is known, and why."""

from itertools import islice

from agentcache.api.messages import (
    ContextView,
    Copy,
    EngineView,
    Explanation,
    Placement,
    Snapshot,
    TenantView,
    scoped,
)
from agentcache.service.books import Books, Engine
from agentcache.service.holdings import Record


def place(books: Books, tenant: str, job: str, prompt_tokens: int | None) -> list[Placement]:
    """What the next turn of a job would have to rebuild on each engine, least first, its home first among equals.

    Without `prompt_tokens` the prompt is taken to be as long as the job's latest context. An unknown job has no
    home and rebuilds everything everywhere.
    """
    record = books.latest(scoped(tenant, job))
    tokens = prompt_tokens if prompt_tokens is not None else record.tokens if record else 0
    placements = []
    for engine in books.engines.values():
        copy = record.copies.get(engine.name) if record else None
        placements.append(
            Placement(
                engine=engine.name,
                resident_tokens=copy.tokens if copy else 0,
                rebuild_s=books.missing_s(engine, copy.runs if copy else (), tokens),
                home=record is not None and record.home == engine.name,
                waiting_rebuild_s=engine.waiting_rebuild_s,
            )
        )
    return sorted(placements, key=lambda placement: (placement.rebuild_s, not placement.home, placement.engine))


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
                rebuild_s=books.missing_s(books.engines[name], copy.runs, record.tokens),
                home=record.home == name,
            )
            for name, copy in record.copies.items()
        ),
    )


def _engine_view(engine: Engine, now: float) -> EngineView:
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
