"""A cluster in simulated time: one replica is the simulation itself, and of several each call is served once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.service.routing.costs import Rates, affinity
from agentcache.sim.queueing import Call, Engine
from agentcache_workloads.cluster.cluster import ClusterRun, run_cluster
from agentcache_workloads.cluster.replica import SimReplica
from agentcache_workloads.cluster.routers import Ask, make_router
from agentcache_workloads.replay.engines.queueing import make_residency, simulate
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import Selection
from tests.workloads.replay.specs import sim_spec

TRACE = Path(__file__).parents[3] / "workloads" / "data" / "cc_weka.tiny.jsonl"
PROFILE = CostProfile.named("h20-like")
ROUTERS = ("residency", "default", "session", "round-robin")


@pytest.fixture(scope="module")
def plan() -> ReplayPlan:
    return load_plan(TRACE, Selection(max_ctx=60_000))


def run(plan: ReplayPlan, router: str = "residency", **changed: Any) -> ClusterRun:
    size = plan.meta.block_size
    assert size
    ours = {name: changed.pop(name) for name in ("replicas", "duplicates") if name in changed}
    fields = {"policy": "return-index", "admission": "working-set", "cache_blocks": 1200, "slots": 6, **changed}
    spec = sim_spec(block_size=size, **fields)
    renderer = Renderer(plan.meta, size, 1000, 0)
    return run_cluster(spec, plan.jobs, renderer, PROFILE, router=router, **{"replicas": 3, **ours})


@pytest.mark.parametrize(("policy", "admission"), [("return-index", "working-set"), ("lru", "fcfs")])
def test_one_replica_is_the_simulation(plan: ReplayPlan, policy: str, admission: str) -> None:
    size = plan.meta.block_size
    assert size
    alone = simulate(
        sim_spec(policy, 1200, size, admission=admission, slots=6),
        plan.jobs,
        Renderer(plan.meta, size, 1000, 0),
        PROFILE,
    )
    for router in ROUTERS:
        cluster = run(plan, router, replicas=1, policy=policy, admission=admission)
        assert cluster.calls == alone.calls
        assert cluster.jobs == alone.jobs
        assert cluster.makespan_s == alone.makespan_s


@pytest.mark.parametrize("router", ROUTERS)
def test_every_call_is_served_once_and_again_alike(plan: ReplayPlan, router: str) -> None:
    first = run(plan, router)
    assert Counter(call.turn for call in first.calls) == Counter(turn.id for job in plan.jobs for turn in job.turns)
    assert {job.job for job in first.jobs} == {job.id for job in plan.jobs}
    assert set(first.placed) == {call.turn for call in first.calls}
    assert all(call.first_token_s and call.arrived_s < call.first_token_s <= call.finished_s for call in first.calls)
    assert run(plan, router) == first


def test_calls_end_in_the_order_of_time_and_what_depends_on_them_comes_later(plan: ReplayPlan) -> None:
    done = {call.turn: call for call in run(plan, "round-robin").calls}
    for job in plan.jobs:
        for turn in job.turns:
            ends = [done[job.turns[index].id].finished_s for index in turn.after]
            assert not ends or done[turn.id].arrived_s == pytest.approx(max(ends) + turn.pause_s)
    finished = [call.finished_s for call in done.values()]
    assert finished == sorted(finished)


def test_sessions_stay_and_turns_in_a_row_go_round(plan: ReplayPlan) -> None:
    for router in ("session", "residency-sticky"):
        placed = run(plan, router).placed
        for job in plan.jobs:
            assert len({placed[turn.id] for turn in job.turns}) == 1
    turns = Counter(run(plan, "round-robin").placed.values())
    assert max(turns.values()) - min(turns.values()) <= 1


def test_a_context_that_moved_leaves_nothing_behind_unless_it_may(plan: ReplayPlan) -> None:
    cleared, kept = (run(plan, "round-robin", duplicates=duplicates) for duplicates in (True, False))
    assert cleared.moves and cleared.spare_blocks and not kept.spare_blocks


def ask(tokens: int = 1000, job: str = "job", turn: str = "turn", **resident: int) -> Ask:
    return Ask(turn, job, tokens, Counter(a=3, b=1, c=2), lambda: resident)


def test_the_default_takes_the_shorter_of_two_queues() -> None:
    router = make_router("default", "abc", None, 1)  # type: ignore[arg-type]
    chosen = Counter(router.choose(ask(), 0.0) for _ in range(300))
    assert chosen["a"] == 0 and chosen["b"] > chosen["c"] > 50


def test_the_ring_moves_few_sessions_when_a_replica_comes() -> None:
    few, many = (make_router("session", names, None, 1) for names in ("abcd", "abcde"))  # type: ignore[arg-type]
    jobs = [f"job {number}" for number in range(500)]
    before, after = ([router.choose(ask(job=job), 0.0) for job in jobs] for router in (few, many))
    assert all(75 < before.count(name) < 175 for name in "abcd")
    assert all(new in (old, "e") for old, new in zip(before, after, strict=True)) and before != after


def test_a_rebuild_for_oneself_costs_the_selfish_nothing() -> None:
    def begins_at(replica: str) -> list[str]:
        """Jobs that go there first, all else being equal."""
        return [job for job in map(str, range(50)) if max("ab", key=lambda name: affinity(job, name)) == replica]

    def second(name: str) -> str:
        router = make_router(name, "ab", Rates(1.0), 1)
        job, waits, *_ = begins_at("a")
        for turn, served in enumerate((job, *begins_at("b")[:2])):
            router.choose(ask(100, served, str(turn)), 0.0)
            router.started(str(turn), 0.0)
        router.finished("0", 0.0)
        assert router.choose(ask(60, waits, "3"), 0.0) == "a"
        return router.choose(ask(100, job, "4", a=40), 100.0)

    assert second("residency-selfish") == "b"  # 60 s wait before 60 s at a; 100 s at b, where two are served
    assert second("residency") == "a"


def test_a_router_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="router 'nearest' is unknown"):
        make_router("nearest", "ab", None, 1)  # type: ignore[arg-type]


def test_a_replica_says_what_it_holds_and_gives_up_what_is_spare() -> None:
    cost = CostModel(PROFILE, 16)
    replica = SimReplica("a", Engine(make_residency(sim_spec("lru", 64, 16), cost), cost), cost)
    call = Call("1", 100, 28, tuple(range(8)), "job", "job/0")
    assert replica.resident_tokens(call) == 0
    replica.send(call, 0.0)
    now, ended = 0.0, False
    while not ended:
        replica.step(now, float("inf"))
        assert replica.until_s is not None and now < replica.soonest_s
        ended = bool(replica.ending)
        now = replica.until_s
    longer = Call("2", 127, 1, tuple(range(8)), "job", "job/0")
    assert replica.resident_tokens(longer) == 112  # of 127 tokens the last is computed again, so 7 whole blocks
    assert replica.evict("another", now) == 0
    assert replica.evict("job/0", now) == 7
    assert replica.resident_tokens(longer) == 0
    replica.engine.check()
