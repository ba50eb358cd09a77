"""The command `agentcache results`: runs what has no row yet, and writes the published page from the rows."""

import signal
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agentcache.errors import ConfigError
from agentcache.files import write_whole
from agentcache_workloads.results.cells import cells
from agentcache_workloads.results.columns import column
from agentcache_workloads.results.config import Figure, changed, load_figure
from agentcache_workloads.results.paper import write_paper
from agentcache_workloads.results.results_page import figure_section, page
from agentcache_workloads.results.row_code import code_hash
from agentcache_workloads.results.rows import load_rows
from agentcache_workloads.results.run import run_figure
from agentcache_workloads.results.sections import bench_section

CONFIGS = Path("workloads/configs")
OUT = Path("docs")


def results(
    configs: Annotated[list[Path] | None, typer.Argument(help=f"Figures, TOML; default all of {CONFIGS}.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run the figures of these names alone; 'a-*' is several.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Run the whole matrix rather than the published one.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    any_code: Annotated[bool, typer.Option("--any-code", help="Keep rows that other code has made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run nothing; write the page from the rows.")] = False,
    half: Annotated[
        str | None, typer.Option(help="Run on this half of the sessions (tune, report, all); print, publish nothing.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.md and results/NAME.csv.")] = OUT,
) -> None:
    """Run the published experiments and write their page.

    Rows are kept in results/NAME.csv under the hash of what they ran; those that are there are not run again unless
    the code that made them has changed. Ctrl-C keeps what is done. Exit codes: 0 done, 2 bad input, 130 interrupted.
    """
    if half not in (None, "tune", "report", "all"):
        raise ConfigError(f"--half is {half!r}, expected tune, report or all; nothing was run")
    figures = _load(configs or sorted(CONFIGS.glob("*.toml")), only or ())
    signal.signal(signal.SIGTERM, _leave)  # so that rows are saved and processes ended then too
    console = Console(stderr=True)
    chosen = [
        (path, figure)
        for path, figure in figures.items()
        if not only or any(fnmatch(figure.name, name) for name in only)
    ]
    for path, figure in chosen:
        figure = figure.with_full() if full else figure
        folder = out / "results"
        if half:
            figure, folder = _on_half(figure, half), Path(".results") / half
        if not dry_run:
            _run(figure, folder / f"{figure.name}.csv", jobs, any_code, console)
        if half:
            rows = load_rows(folder / f"{figure.name}.csv")
            Console(width=None if console.is_terminal else 200).print(
                Markdown(figure_section(figure, rows, str(path), code_hash()))
            )
    if not half:
        write_page(out, figures)
        write_paper(out, CONFIGS)
        console.print(f"The pages are {out / 'results.md'} and {out / 'paper.md'}")


def _load(paths: Sequence[Path], only: Sequence[str]) -> dict[Path, Figure]:
    """All figures, by their files. Raises `ConfigError` for a name of `only` that none has, or an unknown column."""
    if not paths:
        raise ConfigError(f"there is no figure in {CONFIGS}; nothing was run", hint="run it in a checkout")
    figures = {path: load_figure(path) for path in paths}
    if unknown := {name for name in only if not any(fnmatch(figure.name, name) for figure in figures.values())}:
        known = ", ".join(sorted(figure.name for figure in figures.values()))
        raise ConfigError(f"no figure is called {', '.join(sorted(unknown))}; nothing was run", hint=f"known: {known}")
    for figure in figures.values():
        for name in (*figure.columns, figure.headline, *(goal.column for goal in figure.goals)):
            column(name)
    return figures


def write_page(out: Path, figures: dict[Path, Figure]) -> None:
    """Write results.md from the rows that a cell still asks for: of all figures, and of other benchmarks."""
    folder = out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    everything = {path: load_figure(path) for path in sorted(CONFIGS.glob("*.toml"))} | figures
    parts: list[tuple[int, str, str]] = []
    for path, figure in everything.items():
        for shown in (figure, figure.with_full()):
            wanted = {cell.key for cell in cells(shown)}
            if rows := [row for row in load_rows(folder / f"{shown.name}.csv") if row.get("key") in wanted]:
                parts.append((shown.order, shown.name, figure_section(shown, rows, str(path), code_hash())))
    for path in folder.glob("*.toml"):
        order, text = bench_section(path)
        parts.append((order, path.stem, text))
    write_whole(out / "results.md", page([text for _, _, text in sorted(parts)]))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _on_half(figure: Figure, half: str) -> Figure:
    workload = changed(figure.workload, {"half": half})
    return msgspec.structs.replace(figure, title=f"{figure.title} ({half} half)", workload=workload)


def _run(figure: Figure, path: Path, jobs: int, any_code: bool, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(figure.name, total=None)
        done = run_figure(
            figure,
            path,
            jobs=jobs,
            any_code=any_code,
            advance=lambda rows, total: progress.update(task, completed=rows, total=total),
        )
    console.print(f"{figure.name}: {done.ran} cells run, {done.kept} kept")
    for reason, count in done.skipped.items():
        console.print(f"{figure.name}: {count} cells skipped: {reason}")
