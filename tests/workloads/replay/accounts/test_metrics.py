import msgspec
import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache_workloads.replay.accounts.metrics import (
    client_object,
    hit_rates,
    jain,
    mean,
    percentile,
    run_object,
    saved_by,
    spread,
)
from agentcache_workloads.replay.result import CallRecord, Client, JobRecord, RunResult
from agentcache_workloads.replay.spec import STOCK, Remote
from tests.workloads.replay.specs import run_spec

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
    "dialect",
    "oracle",
    "interrupted",
    "itl_s",
    "recomputed_tokens",
    "hit_rate",
    "idle_retained_token_s",
    "unknown",
    "jobs_per_s",
    "by_kind",
    "client",
    "residency",
]


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
    run = run_object(run_spec(), RESULT, live_pool=1.5)
    assert set(run) == {*SCHEMA, "job_latencies_s", "classes"}
    assert (run["engine"], run["policy"], run["seed"], run["live_pool"]) == ("vllm", "lru", 1, 1.5)
    assert (run["jobs"], run["calls"], run["errors"], run["cache_tokens"]) == (2, 3, 1, 256)
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
    assert run["jobs_per_s"] == pytest.approx(2 / 7)
    assert (run["oracle"], run["interrupted"], run["dialect"], run["client"]) == (False, False, None, None)


def test_what_stock_vllm_cannot_know_is_null() -> None:
    calls = [CallRecord("a/0", "first", 0.0, 100, 5, 1.0, 3.0, cached_tokens=32)]
    run = run_object(run_spec(policy=STOCK), RunResult(calls, JOBS[:1], None, 3.0, {}), 1.0)
    assert run["cached_tokens_after_hole"] == 0  # known: stock reuses prefixes only
    assert (run["evictions"], run["preemptions"], run["holes_per_call"]["mean"]) == (None, None, None)
    assert run["queue_s"]["mean"] is None


def test_holding_is_unknown_where_turns_may_be_held_and_nobody_says() -> None:
    assert run_object(run_spec(admission="working-set"), RESULT, 1.0)["held_s"]["mean"] is None


def test_slowdowns_are_to_the_job_alone_and_jain_is_of_their_inverses() -> None:
    result = msgspec.structs.replace(RESULT, alone_s={job.job: job.ended_s - job.arrived_s for job in JOBS})
    assert run_object(run_spec(), result, 1.0)["slowdown"]["p50"] == 1.0
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


LINEAR = CostModel(CostProfile(c_lin=0.001, c_att=0.0), 32)
QUADRATIC = CostModel(CostProfile(c_lin=0.0, c_att=1e-6), 32)


def prefix(turn: str, prompt: int, cached: int) -> CallRecord:
    return CallRecord(turn, "first", 0.0, prompt, 1, 1.0, 1.0, cached_tokens=cached, cached_after_hole=0)


def test_hit_rates_count_calls_blocks_tokens_and_seconds() -> None:
    calls = [prefix("a", 100, 0), prefix("b", 200, 64), prefix("c", 40, 32)]
    # 3, 6 and 1 whole blocks; a token costs 1 ms wherever it stands
    assert hit_rates(calls, 32, LINEAR) == {
        "request": pytest.approx(2 / 3),
        "block": pytest.approx(3 / 10),
        "token": pytest.approx(96 / 340),
        "compute": pytest.approx(96 / 340),
    }
    # tokens [0, n) cost n^2: the front of a prompt is the cheap part
    expected = (64**2 + 32**2) / (100**2 + 200**2 + 40**2)
    assert hit_rates(calls, 32, QUADRATIC)["compute"] == pytest.approx(expected)
    assert hit_rates([], 32, LINEAR) == dict.fromkeys(("request", "block", "token", "compute"))
    assert hit_rates(calls, 32)["compute"] is None  # nobody prices it


def test_what_stood_behind_holes_has_a_price_only_where_somebody_says_it() -> None:
    behind = msgspec.structs.replace(prefix("a", 200, 64), cached_after_hole=32)
    assert saved_by(behind, LINEAR) is None
    assert saved_by(msgspec.structs.replace(behind, saved_s=0.05), LINEAR) == 0.05
    unknown = msgspec.structs.replace(behind, cached_after_hole=None)
    assert saved_by(unknown, LINEAR) is None
    assert saved_by(unknown, LINEAR, prefix_only=True) == pytest.approx(0.064)


def test_recomputed_is_what_was_known_and_not_found() -> None:
    known = {"a/0": 0, "a/1": 128, "b/0": 0}  # of a/1, 96 were found; b/0 found more than was surely there
    run = run_object(run_spec(), RESULT, 1.0, known)
    assert run["recomputed_tokens"] == 32
    assert run["by_kind"]["after_tool"] == {
        "calls": 1,
        "prompt_tokens": 150,
        "cached_tokens": 96,
        "recomputed_tokens": 32,
    }
    assert run["by_kind"]["first"]["recomputed_tokens"] == 0
    assert run_object(run_spec(), RESULT, 1.0)["recomputed_tokens"] is None


def test_times_between_tokens_are_of_all_tokens() -> None:
    calls = [msgspec.structs.replace(CALLS[0], gaps_s=[0.1, 0.3]), msgspec.structs.replace(CALLS[2], gaps_s=[0.2])]
    run = run_object(run_spec(), msgspec.structs.replace(RESULT, calls=calls), 1.0)
    assert run["itl_s"]["mean"] == pytest.approx(0.2)
    assert run["itl_s"]["max"] == 0.3


def test_a_servers_counters_stand_in_for_what_its_answers_do_not_say() -> None:
    calls = [CallRecord("a/0", "first", 0.0, 100, 5, 1.0, 3.0, cached_known=False)]
    result = RunResult(
        calls,
        JOBS[:1],
        9,
        3.0,
        {},
        cached_tokens=64,
        cached_after_hole=32,
        preemptions=2,
        idle_token_s=7.5,
        holes_mean=0.5,
    )
    run = run_object(run_spec(), result, 1.0, {"a/0": 96})
    assert (run["cached_tokens"], run["cached_tokens_after_hole"], run["computed_tokens"]) == (64, 32, 36)
    assert (run["preemptions"], run["evictions"], run["idle_retained_token_s"]) == (2, 9, 7.5)
    assert run["unknown"] == {}
    assert run["holes_per_call"] == {"mean": 0.5, "p99": None}
    assert run["hit_rate"]["token"] is None  # a rate is of calls, and no call says it
    assert run["recomputed_tokens"] is None
    unknown = run_object(run_spec(), msgspec.structs.replace(result, cached_tokens=None, idle_token_s=None), 1.0)
    assert (unknown["cached_tokens"], unknown["computed_tokens"]) == (None, None)
    assert "stock vLLM" in unknown["unknown"]["idle_retained_token_s"]


def test_the_client_says_what_it_cost() -> None:
    client = Client(8, timeouts=1, retries=2, events=300, cpu_s=0.5, wall_s=10.0, send_lag_s=[0.001, 0.003])
    told = client_object(client)
    assert (told["events_per_s"], told["cpu_share"], told["retries"]) == (30.0, 0.05, 2)
    assert told["send_lag_s"]["mean"] == pytest.approx(0.002)
    spec = msgspec.structs.replace(run_spec(), remote=Remote("http://x", output="ignore-eos"), oracle=True)
    run = run_object(spec, msgspec.structs.replace(RESULT, client=client), 1.0)
    assert (run["output_mode"], run["oracle"], run["client"]["timeouts"]) == ("ignore-eos", True, 1)
