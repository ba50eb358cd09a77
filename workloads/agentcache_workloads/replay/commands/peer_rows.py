"""The rows of a result of `agentcache peers` as CSV: one a run, and one for each server that did not start."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentcache.files import write_csv
from agentcache_workloads.replay.spec import STOCK
from agentcache_workloads.report.summary import field

NUMBERS = {
    "job_latency_mean_s": "job_latency_s.mean",
    "job_latency_p90_s": "job_latency_s.p90",
    "ttft_mean_s": "ttft_s.all.mean",
    "tpot_mean_s": "tpot_s.mean",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "after_hole_tokens": "cached_tokens_after_hole",
    "recomputed_tokens": "recomputed_tokens",
    "evictions": "evictions",
    "makespan_s": "makespan_s",
}
RATIOS = ("job_latency_mean_s", "ttft_mean_s")
"""Numbers that also stand as a ratio to stock vLLM's on the same seed."""


def peer_rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Seconds and tokens; what a run does not know, and all of a server that was left out, is empty."""
    where = {"commit": result["commit"], "cpu_model": result["host"]["cpu"], "cores": result["host"]["cores"]}
    stock = {run["seed"]: run for run in result["runs"] if run["policy"] == STOCK}
    for run in result["runs"]:
        numbers = {name: field(run, path) for name, path in NUMBERS.items()}
        base = stock.get(run["seed"], {})
        ratios = {f"{name}_ratio": _ratio(numbers[name], field(base, NUMBERS[name])) for name in RATIOS}
        yield {
            "policy": run["policy"],
            "admission": run["admission"],
            "left_out": "",
            "output_mode": run["output_mode"],
            **{name: run[name] for name in ("live_pool", "slots", "cache_tokens", "jobs", "calls", "errors")},
            **numbers,
            **ratios,
            **where,
            "seed": run["seed"],
        }
    for row in result["left_out"]:
        yield {
            "policy": row["policy"],
            "admission": row["admission"],
            "left_out": row["reason"],
            **where,
            "seed": result["runs"][0]["seed"],
        }


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def write_rows(result: Mapping[str, Any], path: Path) -> None:
    """Write them; numbers are rounded to six digits behind the point."""
    rows = [
        {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
        for row in peer_rows(result)
    ]
    write_csv(path, rows)
