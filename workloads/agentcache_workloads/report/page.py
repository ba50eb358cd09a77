"""Writes the report of a replay: one HTML file that needs nothing else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentcache.errors import InputError
from agentcache.files import write_whole
from agentcache_workloads.report.plots import KINDS, latency_cdf, residency_bands, token_bars, ttft_bars
from agentcache_workloads.report.summary import changes, common, field, rows, verdict

SCHEMA = "agentcache-replay/1"
FACTS = {
    "engine": "Engine",
    "jobs": "Jobs",
    "calls": "Calls",
    "slots": "Slots (jobs open at once)",
    "cache_tokens": "Cache, tokens",
    "live_pool": "Live contexts / pool",
    "admission": "Admission",
    "hints": "Hints",
    "dialect": "Hints said as",
    "output_mode": "Outputs",
    "profile": "Cost profile",
}
"""Fields of the runs that the page states once, where all runs agree."""

DIGEST = re.compile("[0-9a-f]{40,}")


def write_report(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of an `agentcache-replay/1` object to `path`, whole or not at all.

    Beyond the schema, `result["command"]` is shown as the way to run it again, and `run["job_latencies_s"]` gives the
    distribution plot. Raises `InputError` for another schema or no runs, `ConfigError` where `path` cannot be written.
    """
    if result.get("schema") != SCHEMA:
        raise InputError(f"schema is {result.get('schema')!r}, expected {SCHEMA!r}; no report was written")
    if not result.get("runs"):
        raise InputError("the result has no runs; no report was written")
    write_whole(path, render(result), "the page is lost")


def render(result: Mapping[str, Any]) -> str:
    """The page as a string."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("agentcache_workloads.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["field"] = field
    runs = result["runs"]
    table = rows(runs)
    return environment.get_template("page.html.j2").render(
        verdict=verdict(table),
        facts=_facts(result),
        command=result.get("command"),
        left_out=result.get("left_out") or [],
        table=table,
        runs=runs,
        cdf=latency_cdf(table),
        bars=token_bars(table),
        ttft=ttft_bars(table),
        bands=residency_bands(table),
        kinds=KINDS,
        idle_unknown=sorted({why for run in runs if (why := run.get("unknown", {}).get("idle_retained_token_s"))}),
        lost=any(row.value("recomputed_tokens") is not None for row in table),
        changes=changes(runs),
        client=any(run.get("client") for run in runs),
        seeds=len({run.get("seed") for run in runs}),
        live_pool=common(runs, "live_pool"),
        output_mode=common(runs, "output_mode"),
        errors=sum(run.get("errors") or 0 for run in runs),
    )


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table's cell, with thousands apart; a dash for what is not known."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {title: result.get(key) for key, title in (("trace", "Trace"), ("host", "Host"), ("commit", "Commit"))}
    named |= {title: common(result["runs"], key) for key, title in FACTS.items()}
    named["Seeds"] = sorted({run["seed"] for run in result["runs"] if run.get("seed") is not None}) or None
    return [(title, _plain(value)) for title, value in named.items() if value is not None]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, str) and DIGEST.fullmatch(value):
        return value[:12]  # enough to tell apart; the JSON has it whole
    return f"{value:,}" if isinstance(value, int) else str(value)
