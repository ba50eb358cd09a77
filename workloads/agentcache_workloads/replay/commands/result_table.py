"""The table of a replay for the terminal: one row a run, with ratios to stock vLLM on the same seed."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from agentcache_workloads.replay.spec import STOCK

Run = dict[str, Any]


def result_table(runs: Sequence[Run]) -> Table:
    """Seconds, and in brackets the ratio to `vllm-lru`; cached tokens as a share of all prompt tokens."""
    stock = {run["seed"]: run for run in runs if run["policy"] == STOCK}
    table = Table(title=_title(runs[0]), title_justify="left", title_style="bold", caption_justify="left", box=SIMPLE)
    table.caption = f"in brackets: ratio to {STOCK}, same seed" if stock else None
    tiers = any("host_memory" in run for run in runs)
    seeds = len({run["seed"] for run in runs}) > 1
    for heading in ("policy", "admission", *(["seed"] if seeds else [])):
        table.add_column(heading, no_wrap=True)
    found = ("cached", "after hole", *(["loaded"] if tiers else []))
    for heading in ("job latency s", "p90 s", "TTFT s", *found, "computed", "makespan s", "errors"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        base = stock.get(run["seed"])
        table.add_row(
            run["policy"] + "".join(f" ({mark})" for mark in ("oracle", "interrupted") if run.get(mark)),
            run["admission"],
            *([str(run["seed"])] if seeds else []),
            _timed(run, base, "job_latency_s", "mean"),
            _timed(run, base, "job_latency_s", "p90"),
            _timed(run, base, "ttft_s", "all", "mean"),
            _share(run, "cached_tokens"),
            _share(run, "cached_tokens_after_hole"),
            *([_loaded(run)] if tiers else []),
            "-" if run["computed_tokens"] is None else f"{run['computed_tokens']:,}",
            _timed(run, base, "makespan_s"),
            str(run["errors"]),
        )
    return table


def _title(run: Run) -> str:
    return (
        f"{run['jobs']} jobs, {run['calls']} calls, {run['slots']} slots, {run['cache_tokens']:,} tokens of cache, "
        f"live/pool {run['live_pool']:.2f}"
    )


def _get(run: Run, *path: str) -> float | None:
    value: Any = run
    for key in path:
        value = value[key]
    return None if value is None else float(value)


def _timed(run: Run, base: Run | None, *path: str) -> str:
    value, reference = _get(run, *path), _get(base, *path) if base and base is not run else None
    if value is None:
        return "-"
    return f"{value:.2f} ({value / reference:.2f})" if reference else f"{value:.2f}"


def _loaded(run: Run) -> str:
    return _share({**run, "loaded_tokens": run.get("host_memory", {}).get("loaded_tokens")}, "loaded_tokens")


def _share(run: Run, key: str) -> str:
    value = run[key]
    return "-" if value is None or not run["prompt_tokens"] else f"{value / run['prompt_tokens']:.1%}"
