"""The command `agentcache report`: results of replays as one page, or side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.report.page import SCHEMA, write_report
from agentcache_workloads.report.summary import changes, rows, verdict

WIDTH = 150
RATIOS = {
    "job latency": "job_latency_s.mean",
    "p90": "job_latency_s.p90",
    "TTFT": "ttft_s.all.mean",
    "computed": "computed_tokens",
    "makespan": "makespan_s",
}


def report(
    results: Annotated[list[Path], typer.Argument(help="Results that `agentcache replay --json` wrote.")],
    html_path: Annotated[Path, typer.Option("--html", help="Write the page here.")] = Path("report.html"),
) -> None:
    """Write the report of one or more results; several are compared with the first, run by run.

    Runs are compared where policy, admission, hints, slots, outputs and seed are equal. Results of different traces
    are refused. Exit codes: 0 done, 2 bad input.
    """
    result = merged(results)
    write_report(result, str(html_path))
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    table = rows(result["runs"])
    compared = changes(result["runs"]) if len(results) > 1 else []
    if compared:
        console.print(_table(compared, results[0].stem))
    elif len(results) > 1:
        print("No run of a later result has the policy, conditions and seed of one of the first.")
    print(verdict(table))
    print(f"The report is {html_path}.")


def merged(paths: list[Path]) -> dict[str, Any]:
    """One result with the runs of all files, each with its `source` where there are several files.

    Raises `InputError` for a file that is no result, `ConfigError` for results of different traces or files alike.
    """
    loaded = [_load(path) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    names = _names(paths)
    traces = {name: _trace(result) for name, result in zip(names, loaded, strict=True)}
    if len(set(traces.values())) > 1:
        raise ConfigError(
            f"the results are of different traces or parts of one ({traces}), so no ratio would mean anything; "
            "no report was written",
            hint="write one report for each",
        )
    pairs = list(zip(names, loaded, strict=True))
    return {
        "schema": SCHEMA,
        "trace": loaded[0].get("trace"),
        **{key: _one({name: result.get(key) for name, result in pairs}) for key in ("host", "commit")},
        "command": "\n".join(f"# {name}\n{result['command']}" for name, result in pairs if result.get("command")),
        "runs": [run | {"source": name} for name, result in pairs for run in result["runs"]],
    }


def _one(values: dict[str, Any]) -> Any:
    """The value that all have, or all of them by name."""
    first, *others = values.values()
    return first if all(value == first for value in others) else values


def _names(paths: list[Path]) -> list[str]:
    for names in ([path.stem for path in paths], [str(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    raise ConfigError("the same result is named twice; no report was written")


def _trace(result: dict[str, Any]) -> str:
    trace = result.get("trace")
    return str({key: trace.get(key) for key in ("sha256", "jobs", "calls")} if isinstance(trace, dict) else trace)


def _load(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"result {path} cannot be read: {error}; no report was written") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or not result.get("runs"):
        raise InputError(
            f"{path} is no result of a replay (schema {SCHEMA}); no report was written",
            hint="`agentcache replay --json` writes one",
        )
    return result


def _table(compared: Any, first: str) -> Table:
    table = Table(box=SIMPLE, title=f"later results over {first}", title_justify="left", title_style="bold")
    for heading in ("policy", "result"):
        table.add_column(heading, no_wrap=True)
    for heading in ("seeds", *RATIOS):
        table.add_column(heading, justify="right")
    for change in compared:
        ratios = (change.ratio(path) for path in RATIOS.values())
        shown = ("-" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
        table.add_row(change.label, change.source, str(len(change.pairs)), *shown)
    return table
