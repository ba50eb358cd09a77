"""Retention layers in the queueing simulation: who returns to a kept context goes first, and an oracle is told."""

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache_workloads.generators.bfcl_search import BfclSearch, generate
from agentcache_workloads.replay.engines.queueing import make_residency, pauses_of, simulate
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from tests.workloads.replay.specs import sim_spec

META, SESSIONS = generate(BfclSearch(jobs=12, scale=0.2), seed=3)
JOBS: list[PlannedJob] = [build_job(session, {session.sid: session}) for session in SESSIONS]


def run(policy: str, admission: str = "program-fcfs+retained", hints: bool = True) -> RunResult:
    return simulate(
        sim_spec(policy, 60_000 // 64, 64, admission=admission, slots=8, hints=hints),
        JOBS,
        Renderer(META, 64, 1000, 0),
        CostProfile.named("h20-like"),
    )


def test_an_oracle_is_told_every_pause_in_the_order_of_its_context_s_turns() -> None:
    told = pauses_of(JOBS, 2.0)
    assert set(told) == {f"{job.id}/{job.id}" for job in JOBS}
    for job in JOBS:
        assert told[f"{job.id}/{job.id}"] == [*(2.0 * turn.pause_s for turn in job.turns[1:]), None]


def test_the_order_asks_the_layer_who_is_kept() -> None:
    cost = CostModel(CostProfile.named("h20-like"), 64)
    core = make_residency(sim_spec("continuum-always+lru", 100, 64, admission="program-fcfs+retained"), cost)
    assert core.admission and core.admission.is_retained == core.policy.retains  # type: ignore[attr-defined]


def test_every_layer_runs_to_the_end_and_never_is_the_inner_policy_alone() -> None:
    plain, never = run("lru"), run("continuum-never+lru")
    assert never.calls == plain.calls
    for policy in ("continuum+return-index", "continuum-always+asymcache", "continuum-oracle+lru"):
        done = run(policy)
        assert len(done.calls) == len(plain.calls)
        assert done.calls != plain.calls
        assert run(policy).calls == done.calls, "the same again"
    with pytest.raises(ConfigError, match="not told the pauses"):
        run("continuum-oracle+lru", hints=False)
