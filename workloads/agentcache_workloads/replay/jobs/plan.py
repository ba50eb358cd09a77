"""What a replay runs: the jobs it takes from a trace, the same ones for every policy."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.readers.cut import sha_order
from agentcache_workloads.readers.open import open_trace, with_blocks
from agentcache_workloads.readers.pauses import with_pauses
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job
from agentcache_workloads.replay.spec import Selection


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The jobs of a replay, in SHA-256 order of their ids."""

    meta: Meta
    jobs: tuple[PlannedJob, ...]

    @property
    def calls(self) -> int:
        return sum(len(job.turns) for job in self.jobs)


def load_plan(path: str | Path, selection: Selection) -> ReplayPlan:
    """Read a trace of any format, select its jobs and resolve their order.

    A trace without block ids gets some, as `with_blocks` says. Raises `InputError` for a bad trace, `ConfigError` when
    it has fewer jobs than asked for.
    """
    meta, stream = open_trace(path, selection.form, block_size=selection.trace_block_size, link=selection.link)
    if selection.pauses:
        stream = with_pauses(stream, selection.pauses, selection.pauses_seed)
    meta, stream = with_blocks(meta, stream)
    if meta.block_size is None:
        raise InputError(
            f"trace {path} has no block ids, so its prompts cannot be rendered; nothing was replayed",
            hint="use a trace whose prompts have enc `blocks`",
        )
    roots, branches = _linked(path, stream)
    jobs: list[PlannedJob] = []
    for root in sorted(roots, key=lambda session: sha_order(session.sid)):
        if len(jobs) == selection.sessions:
            break
        job = build_job(
            root,
            branches,
            max_calls=selection.max_calls,
            max_ctx=selection.max_ctx,
            max_pause_s=selection.max_pause_s,
        )
        if job.turns:
            jobs.append(job)
    if not jobs or len(jobs) < (selection.sessions or 1):
        raise ConfigError(
            f"trace {path} has {len(jobs)} jobs under these limits, {selection.sessions or 'at least 1'} were asked "
            "for; nothing was replayed",
            hint="lower --sessions or raise --max-ctx",
        )
    return ReplayPlan(meta, tuple(jobs))


def _linked(path: str | Path, sessions: Iterable[Session]) -> tuple[list[Session], dict[str, Session]]:
    """The sessions that are jobs, and all by their ids. Raises `InputError` for one that cannot be replayed."""
    roots: list[Session] = []
    branches: dict[str, Session] = {}
    for session in sessions:
        if wrong := next((call for call in session.calls if call.enc != "blocks"), None):
            raise InputError(
                f"turn {wrong.turn} of session {session.sid!r} in {path} has a prompt of enc {wrong.enc!r}, expected "
                "'blocks'; nothing was replayed",
            )
        branches[session.sid] = session
        if session.parent is None:
            roots.append(session)
    for session in branches.values():
        parent = session.parent
        if parent and (parent.sid not in branches or parent.turn >= len(branches[parent.sid].calls)):
            raise InputError(
                f"session {session.sid!r} in {path} was started by turn {parent.turn} of {parent.sid!r}, which the "
                "trace does not hold; nothing was replayed",
            )
    return roots, branches
