"""The columns that tables may show: their headings, digits and which way is better."""

from dataclasses import dataclass
from typing import Literal

from agentcache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Column:
    """How a number is shown and compared: by its difference to the stock row (points), or by its ratio.

    `better` is the sign of an improvement; 0: neither way is. `tie` is how far a row may be behind and not have lost.
    """

    title: str
    digits: int
    better: Literal[1, 0, -1]
    how: Literal["difference", "ratio"]
    tie: float = 0.0


def _seconds(title: str) -> Column:
    return Column(title, 1, -1, "ratio", tie=0.01)


COLUMNS = {
    "token_hit_percent": Column("token hits %", 1, 1, "difference", tie=0.5),
    "after_hole_percent": Column("behind holes %", 1, 0, "difference"),
    "saved_percent": Column("prefill s saved %", 1, 1, "difference", tie=0.5),
    "prefill_saved_s": Column("prefill s saved", 0, 1, "ratio"),
    "prefill_paid_s": Column("prefill s paid", 0, -1, "ratio", tie=0.01),
    "holes_per_call": Column("holes a call", 2, 0, "difference"),
    "evictions": Column("evicted blocks", 0, 0, "ratio"),
    "overflow_blocks": Column("blocks that did not fit", 0, 0, "difference"),
    "job_latency_mean_s": _seconds("job latency s"),
    "job_latency_p50_s": _seconds("p50 s"),
    "job_latency_p90_s": _seconds("p90 s"),
    "job_latency_p99_s": _seconds("p99 s"),
    "job_latency_no_tools_mean_s": _seconds("less pauses s"),
    "job_latency_no_tools_p90_s": _seconds("less pauses p90 s"),
    "job_latency_no_tools_p99_s": _seconds("less pauses p99 s"),
    "ttft_mean_s": _seconds("TTFT s"),
    "ttft_first_mean_s": _seconds("TTFT first turns s"),
    "ttft_returning_mean_s": _seconds("TTFT returning turns s"),
    "ttft_p99_s": _seconds("TTFT p99 s"),
    "urgent_latency_mean_s": _seconds("urgent jobs s"),
    "giant_latency_s": _seconds("giant job s"),
    "held_max_s": Column("longest hold s", 0, 0, "difference"),
    "slowdown_max": Column("slowdown max", 2, -1, "ratio", tie=0.01),
    "held_mean_s": Column("held s a call", 2, 0, "difference"),
    "slowdown_p99": Column("slowdown p99", 2, -1, "ratio", tie=0.01),
    "jain": Column("Jain's index", 3, 1, "difference", tie=0.01),
    "makespan_s": _seconds("makespan s"),
    "computed_tokens": Column("computed tokens", 0, -1, "ratio", tie=0.01),
    "cached_percent": Column("cached tokens %", 1, 1, "difference", tie=0.5),
    "loaded_percent": Column("from the tier %", 1, 0, "difference"),
    "request_hit_percent": Column("calls with a hit %", 1, 1, "difference", tie=0.5),
    "tpot_mean_ms": Column("TPOT ms", 1, -1, "ratio", tie=0.01),
    "prompt_tokens": Column("prompt tokens", 0, 0, "ratio"),
    "light_load_s": Column("alone, less pauses s", 1, 0, "ratio"),
    "preemptions": Column("preemptions", 0, 0, "difference"),
    "capacity_jobs_per_hour": Column("capacity, jobs/h", 2, 1, "ratio", tie=0.01),
}


def column(name: str) -> Column:
    """Raises `ConfigError` for a name that no table knows."""
    if name not in COLUMNS:
        raise ConfigError(f"column {name!r} is unknown; nothing was run", hint="known: " + ", ".join(COLUMNS))
    return COLUMNS[name]
