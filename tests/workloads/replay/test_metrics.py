import msgspec
import pytest

from agentcache_workloads.replay.metrics import jain, mean, percentile, run_object, spread
from agentcache_workloads.replay.plan import Selection
from agentcache_workloads.replay.spec import STOCK, CallRecord, JobRecord, RunResult, RunSpec

SCHEMA = [
    "engine",
    "policy",
    "admission",
    "seed",
    "profile",
    "output_mode",
    "hints",
    "live_pool",
    "slots",
    "cache_tokens",
    "arrival",
    "jobs",
    "calls",
    "errors",
    "job_latency_s",
    "job_latency_no_tools_s",
    "ttft_s",
    "tpot_s",
    "queue_s",
    "held_s",
    "slowdown",
    "jain",
    "prompt_tokens",
    "cached_tokens",
    "cached_tokens_after_hole",
    "computed_tokens",
    "rebuild_s_saved",
    "holes_per_call",
    "evictions",
    "preemptions",
    "makespan_s",
]


def make_spec(policy: str = "lru-holes", admission: str = "fcfs") -> RunSpec:
    return RunSpec(
        trace="t",
        selection=Selection(),
        policy=policy,
        admission=admission,
        profile=None,
        mode="fused",
        seed=3,
        slots=2,
        time_scale=1.0,
        tokens_per_block=2,
        hints=True,
        model="m",
        vocab_size=512,
        dtype="float32",
        block_size=32,
        cache_blocks=10,
        max_batched_tokens=512,
        max_context_tokens=100,
    )


CALLS = [
    CallRecord("a/0", "first", 0.0, 100, 5, 1.0, 3.0, 0.5, 0, 0, 0, 0),
    CallRecord("a/1", "after_tool", 5.0, 150, 1, 7.0, 7.0, 0.1, 96, 64, 2, 1),
    CallRecord("b/0", "first", 1.0, 50, 3, 2.0, 3.0, 0.0, 32, 32, 1, 0),
    CallRecord("c/0", "after_user", 1.0, 999, 3, 2.0, 3.0, error="other tokens"),
    CallRecord("c/1", "after_user", 1.0, 999, 3),
]
JOBS = [JobRecord("a", 0.0, 7.0, 2.0), JobRecord("b", 1.0, 3.0, 0.0)]
RESULT = RunResult(CALLS, JOBS, evictions=4, makespan_s=7.0, classes={"scheduler": "x"})


def test_a_run_by_hand() -> None:
    run = run_object(make_spec(), RESULT, live_pool=1.5)
    assert set(run) == {*SCHEMA, "job_latencies_s", "classes"}
    assert (run["engine"], run["policy"], run["seed"], run["live_pool"]) == ("vllm", "lru-holes", 3, 1.5)
    assert (run["jobs"], run["calls"], run["errors"], run["cache_tokens"]) == (2, 3, 1, 320)
    assert run["job_latency_s"] == {
        "mean": 4.5,
        "p50": 4.5,
        "p90": pytest.approx(6.5),
        "p95": pytest.approx(6.75),
        "p99": None,
    }
    assert run["job_latency_no_tools_s"]["mean"] == 3.5
    assert run["ttft_s"]["all"]["mean"] == pytest.approx(4 / 3)
    assert run["ttft_s"]["first"]["max"] == 1.0
    assert run["ttft_s"]["after_tool"]["p50"] == 2.0
    assert run["ttft_s"]["after_user"] == {"mean": None, "p50": None, "p90": None, "p99": None, "max": None}
    assert run["tpot_s"]["mean"] == 0.5  # 2 s for 4 tokens, 1 s for 2; one token has no pace
    assert run["queue_s"]["mean"] == pytest.approx(0.2)
    assert (run["prompt_tokens"], run["cached_tokens"], run["computed_tokens"]) == (300, 128, 172)
    assert run["cached_tokens_after_hole"] == 96
    assert run["holes_per_call"] == {"mean": 1.0, "p99": None}
    assert (run["evictions"], run["preemptions"], run["makespan_s"]) == (4, 1, 7.0)
    assert run["held_s"]["max"] == 0.0
    assert run["slowdown"] == {"p50": None, "p99": None}
    assert run["jain"] is None
    assert run["job_latencies_s"] == [2.0, 7.0]


def test_what_stock_vllm_cannot_know_is_null() -> None:
    calls = [CallRecord("a/0", "first", 0.0, 100, 5, 1.0, 3.0, cached_tokens=32)]
    run = run_object(make_spec(STOCK), RunResult(calls, JOBS[:1], None, 3.0, {}), 1.0)
    assert run["cached_tokens_after_hole"] == 0  # known: stock reuses prefixes only
    assert (run["evictions"], run["preemptions"], run["holes_per_call"]["mean"]) == (None, None, None)
    assert run["queue_s"]["mean"] is None


def test_holding_is_unknown_where_turns_may_be_held_and_nobody_says() -> None:
    assert run_object(make_spec(admission="working-set"), RESULT, 1.0)["held_s"]["mean"] is None


def test_slowdowns_are_to_the_job_alone_and_jain_is_of_their_inverses() -> None:
    result = msgspec.structs.replace(RESULT, alone_s={job.job: job.ended_s - job.arrived_s for job in JOBS})
    assert run_object(make_spec(), result, 1.0)["slowdown"]["p50"] == 1.0
    assert jain([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([]) is None


def test_no_p99_from_few_samples() -> None:
    assert percentile([1.0] * 99, 99) is None
    assert percentile([*map(float, range(101))], 99) == pytest.approx(99.0)
    assert percentile([], 50) is None
    assert percentile([1.0, 3.0], 50) == 2.0
    assert mean([]) is None
    assert spread([2.0, None, 4.0])["mean"] == 3.0
