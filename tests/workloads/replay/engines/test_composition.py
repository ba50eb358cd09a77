"""Every retention layer over every policy, under every admission, runs a small replay to its end."""

from functools import cache
from pathlib import Path

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.model import Block, Stop
from agentcache.policy import layers, make_policy, names
from agentcache.policy.admission.names import BUILT, parse_admission
from agentcache.residency import Residency
from agentcache.sim.fixed import Turn, run_fixed
from agentcache.sim.queueing import Call, Engine
from agentcache.vllm_plugin.link.leases import ServiceLeases
from agentcache_workloads.replay.engines.queueing import simulate
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import Selection
from tests.workloads.replay.specs import sim_spec

TRACE = Path(__file__).parents[4] / "workloads" / "data" / "cc_weka.tiny.jsonl"
PROFILE = CostProfile(c_lin=1e-4, c_att=1e-9, floor=4e-3)
COST = CostModel(PROFILE, 16)
ADMISSIONS = [f"{name}:2" if name == "fixed-release" else name for name in BUILT]
ORDERS = [name for name in names() if name not in layers()]
ONLINE = [name for name in ORDERS if not make_policy(name, COST, 8).needs]
ORACLES = [name for name in ORDERS if name not in ONLINE]


@cache
def plan() -> ReplayPlan:
    return load_plan(TRACE, Selection(sessions=4, max_calls=4))


def replay(policy: str, admission: str) -> RunResult:
    """16 calls of four jobs, whose contexts together are twice the pool."""
    return simulate(
        sim_spec(policy, 160, 64, admission=admission, tokens_per_block=4, slots=4),
        plan().jobs,
        Renderer(plan().meta, 4, 1000, 1),
        PROFILE,
        priorities=[1, 0, 1, 0],
    )


@pytest.mark.parametrize("policy", [*ONLINE, *(f"{layer}+{name}" for layer in layers() for name in ONLINE)])
def test_every_policy_runs_behind_every_layer_under_every_admission(policy: str) -> None:
    for admission in ADMISSIONS:
        done = replay(policy, admission)
        assert len(done.calls) == 16, admission
        assert done.evictions, "the pool is tight"
        assert any(call.cached_tokens for call in done.calls), admission


@pytest.mark.parametrize("name", ONLINE)
def test_every_policy_runs_behind_the_service_s_leases(name: str) -> None:
    for admission in ADMISSIONS:
        policy = ServiceLeases(make_policy(name, COST, 40))
        core = Residency(policy, 40, admission=parse_admission(admission))
        sim, now, granted = Engine(core, COST), 0.0, 0
        for turn in range(6):
            calls = [_call(f"job{i}", turn) for i in range(4)]
            for call in calls:
                sim.submit(call, now)
            while sim.busy:
                now, finished = sim.step(now, float("inf"))
                for entry in finished:
                    idle = [block for block in _evictable(core, entry.call) if block in policy]
                    granted += policy.grant(entry.call.job or "", now + 0.1 * (turn % 3), turn % 2, idle)
                sim.check()
            now += 0.05
        assert granted and core.evicted_blocks, admission


def _call(job: str, turn: int) -> Call:
    prompt, output = 16 * (6 + 2 * turn) + 5, 8
    full = (prompt + output) // 16
    keys = tuple(f"{'all' if index < 2 else job}:{index}" for index in range(full))
    return Call(f"{job}/{turn}", prompt, output, keys, job, job, Stop.TOOL_USE, "grep", None)


def _evictable(core: Residency, call: Call) -> list[Block]:
    return [core._evictable[key] for key in call.keys if key in core._evictable]


@pytest.mark.parametrize("policy", [*ORACLES, *(f"{layer}+{name}" for layer in layers() for name in ORACLES)])
def test_oracles_run_behind_every_layer_where_the_future_is_known(policy: str) -> None:
    calls = [(at, i, _call(f"job{i}", at)) for at in range(4) for i in range(3)]
    turns = [
        Turn(call.id, 10.0 * at + i, 10.0 * at + i + 1, call.prompt_tokens, call.keys, call.job)
        for at, i, call in calls
    ]  # no tool calls: nobody tells both the future, and the pauses behind them
    done = run_fixed(turns, policy, COST, 24)
    assert len(done.rows) == 12 and done.evicted_blocks
    with pytest.raises(ConfigError, match="was not told"):
        replay(policy, "fcfs")
