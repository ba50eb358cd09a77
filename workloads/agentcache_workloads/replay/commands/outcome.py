"""What the commands show of their runs and leave of them: progress, the table, the result's files, the exit code."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentcache.files import write_json
from agentcache_workloads.replay.accounts.metrics import run_object
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.commands.prepare import Prepared
from agentcache_workloads.replay.commands.result_table import result_table
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.jobs.reuse_bound import known_tokens
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import RunSpec

SCHEMA = "agentcache-replay/1"
PLAIN_WIDTH = 150  # columns of a table that goes into a file or a pipe

Start = Callable[[str], Callable[[int], None]]


@contextmanager
def progress(calls: int) -> Iterator[Start]:
    """Bars on stderr: each title starts one, and is answered by who hears how many of its calls have ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def start(title: str) -> Callable[[int], None]:
            for task in bars.tasks:
                bars.stop_task(task.id)
            bar = bars.add_task(title, total=calls)
            return lambda ended: bars.update(bar, completed=ended)

        yield start


def describe_run(prepared: Prepared, spec: RunSpec, result: RunResult) -> dict[str, Any]:
    """The run object, with what has to be known of the jobs for it."""
    renderer = Renderer(prepared.plan.meta, spec.tokens_per_block, spec.vocab_size, seed=0)
    known = known_tokens(prepared.plan.jobs, renderer, spec.tokens_per_block, spec.block_size, result.calls)
    return run_object(spec, result, prepared.live_pool, known, prepared.cost)


def write_result(
    json_path: Path | None, html_path: Path | None, trace: dict[str, Any], runs: Sequence[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """Write the result of these runs, and its page, where the user wants them; returns it."""
    result = {
        "schema": SCHEMA,
        "trace": trace,
        "host": describe_host(),
        "commit": commit(),
        "command": shlex.join(["agentcache", *sys.argv[1:]]),
        **more,
        "runs": runs,
    }
    if json_path:
        write_json(json_path, result)
    if html_path:
        from agentcache_workloads.report.page import write_report

        write_report(result, str(html_path))
    return result


def show(runs: Sequence[dict[str, Any]], interrupted: str | None = None) -> None:
    """Print the table and the verdict, and why there are no more, if they were `interrupted`; then exit by them."""
    from agentcache_workloads.report.summary import rows, verdict

    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(result_table(runs))
    errors = sum(run["errors"] for run in runs)
    if errors:
        print(f"{errors} calls failed; their jobs are missing from the latencies.")
    print(verdict(rows(runs)))
    if runs[-1]["interrupted"]:
        if interrupted:
            print(interrupted)
        raise typer.Exit(130)
    if errors:
        raise typer.Exit(1)
