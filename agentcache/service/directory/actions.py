"""What clients say about their jobs, and what becomes of it."""

from uuid import uuid4

from msgspec.structs import replace

from agentcache.api.messages import (
    Action,
    Answer,
    EndJob,
    EndTurn,
    FinishTool,
    Outcome,
    ReleaseJob,
    RetainJob,
    StartJob,
    StartTool,
    scoped,
)
from agentcache.service.directory.books import Books, Granted
from agentcache.service.directory.outbox import Outbox

_ANSWERS = 4096


class Actions:
    """Carries actions out, each `request_id` once."""

    def __init__(self, books: Books, outbox: Outbox) -> None:
        self._books, self._outbox = books, outbox

    def apply(self, action: Action, tenant: str, now: float) -> Answer:
        """Do what a client says about a job of its tenant's."""
        answers = self._books.tenant(scoped(tenant, action.job)).answers
        if action.request_id and (known := answers.get(action.request_id)):
            self._books.count("actions_repeated")
            return known
        answer = self._apply(action, scoped(tenant, action.job), now)
        self._books.count(f"actions_{answer.outcome}")
        if action.request_id:
            answer = answers[action.request_id] = replace(answer, request_id=action.request_id)
            if len(answers) > _ANSWERS:
                answers.popitem(last=False)
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
            case EndJob() | EndTurn(last=True):
                self._outbox.end(known, now)
            case ReleaseJob():
                self._books.drop_leases(known)
                self._outbox.release(known, "asked")
            case StartTool(tool=tool, expected_s=expected_s):
                self._outbox.tool_began(known, tool, expected_s)
            case FinishTool(tool=tool):
                self._outbox.tool_ended(known, tool)
        return Answer(outcome="accepted" if known.contexts else "deferred")

    def _lease(self, action: RetainJob, job_id: str, now: float) -> Answer:
        config = self._books.config
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
        self._books.lease(job, lease_id, Granted(now + granted_s, action.keep_priority, tokens))
        job.touched_at = now
        self._books.note(job_id, f"lease {lease_id} for {granted_s:g} s")
        self._outbox.retain(job, granted_s, action.keep_priority)
        outcome: Outcome = "clipped" if granted_s < action.ttl_s else "accepted" if job.contexts else "deferred"
        return Answer(
            outcome=outcome,
            detail="" if job.contexts else "no engine holds anything of the job yet",
            lease=lease_id,
            granted_s=granted_s,
            granted_priority=action.keep_priority,
        )
