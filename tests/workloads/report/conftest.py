"""Results of replays, made up."""

from collections.abc import Callable
from typing import Any

import pytest


def _run(policy: str, mean_s: float, seed: int = 1, after_hole: int = 0, **changes: Any) -> dict[str, Any]:
    latencies_s = [mean_s * (0.5 + step / 23) for step in range(24)]
    return {
        "engine": "vllm",
        "policy": policy,
        "admission": "fcfs",
        "seed": seed,
        "profile": None,
        "output_mode": "forced",
        "hints": True,
        "live_pool": 3.1,
        "slots": 12,
        "cache_tokens": 4480,
        "jobs": 24,
        "calls": 288,
        "errors": 0,
        "job_latency_s": {"mean": mean_s, "p50": mean_s, "p90": 1.4 * mean_s, "p95": 1.5 * mean_s, "p99": None},
        "job_latency_no_tools_s": {"mean": mean_s - 3, "p50": mean_s, "p90": mean_s, "p95": mean_s, "p99": None},
        "ttft_s": {
            kind: {"mean": mean_s / 20, "p50": 0.5, "p90": 2.5, "p99": 4.0, "max": 6.2}
            for kind in ("all", "first", "after_tool", "after_user")
        },
        "tpot_s": {"mean": 0.04, "p50": 0.041, "p90": 0.05, "p99": 0.06},
        "queue_s": None,
        "held_s": None,
        "slowdown": None,
        "jain": None,
        "prompt_tokens": 200_000,
        "cached_tokens": 20_000 + after_hole,
        "cached_tokens_after_hole": after_hole,
        "computed_tokens": 180_000 - after_hole,
        "rebuild_s_saved": None,
        "holes_per_call": {"mean": 0.4, "p99": 2.0},
        "evictions": 5000,
        "preemptions": 0,
        "makespan_s": 3 * mean_s,
        "job_latencies_s": latencies_s,
    } | changes


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Makes a run object: `run(policy, mean_s, seed=1, after_hole=0, **fields to change)`."""
    return _run


@pytest.fixture
def result() -> dict[str, Any]:
    """A result of three policies and one seed."""
    return {
        "schema": "agentcache-replay/1",
        "trace": "cc_weka.jsonl.zst",
        "host": {"cpu": "Some CPU", "cores": 2, "memory_gib": 15.5},
        "commit": "0123abc",
        "command": "agentcache replay cc_weka.jsonl.zst --engine vllm --policies vllm-lru,lru-holes,asymcache",
        "runs": [
            _run("vllm-lru", 33.4),
            _run("lru-holes", 30.0, after_hole=30_000),
            _run("asymcache", 26.1, after_hole=70_000),
        ],
    }
