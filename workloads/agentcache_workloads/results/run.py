"""Runs the cells of a figure that have no row yet, in several processes; what is done stays done."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.results.cells import Cell, cells
from agentcache_workloads.results.config import Figure
from agentcache_workloads.results.measure import Measured, measure, missing
from agentcache_workloads.results.row_code import code_hash, standing
from agentcache_workloads.results.rows import Row, as_row, load_rows, save_rows

SAVE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class FigureRun:
    """What a figure has now. `skipped`: cells that this installation cannot run, by reason."""

    rows: tuple[Row, ...]
    ran: int
    kept: int
    skipped: dict[str, int]


def run_figure(
    figure: Figure,
    path: Path,
    *,
    jobs: int = 2,
    any_code: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> FigureRun:
    """Bring the rows in `path` up to date with the figure.

    A row is kept when its cell is still in the figure and the code that made it is this code, or was shown to make
    equal rows (`any_code`: whatever made it). Rows of other cells are dropped. `advance(done, total)` is told of
    progress. Every few seconds, and on the way out however it is left, what is done is saved.
    """
    wanted = {cell.key: cell for cell in cells(figure)}
    reasons = {key: reason for key, cell in wanted.items() if (reason := missing(cell))}
    skipped: dict[str, int] = {}
    for reason in reasons.values():
        skipped[reason] = skipped.get(reason, 0) + 1
    rows = {
        row["key"]: row
        for row in load_rows(path)
        if row.get("key") in wanted and (any_code or row.get("code") in standing(code_hash(wanted[row["key"]].policy)))
    }
    kept = len(rows)
    todo = [cell for key, cell in wanted.items() if key not in rows and key not in reasons]
    origin = _origin()

    def ordered() -> list[Row]:
        return [rows[key] for key in wanted if key in rows]

    saved = time.monotonic()
    try:
        advance(kept, kept + len(todo))
        for cell, measured, code in _measured(todo, jobs):
            rows[cell.key] = as_row(cell, measured, {**origin, "code": code})
            advance(len(rows), kept + len(todo))
            if time.monotonic() - saved > SAVE_EVERY_S:
                save_rows(path, ordered())
                saved = time.monotonic()
    finally:
        if rows:
            save_rows(path, ordered())
    return FigureRun(tuple(ordered()), len(todo), kept, skipped)


def _measured(todo: Sequence[Cell], jobs: int) -> Any:
    """Cell, measurement and the code that made it, as they come; a single process needs no other."""
    if jobs == 1 or len(todo) < 2:
        yield from map(_one, todo)
        return
    context = multiprocessing.get_context("spawn")  # nothing of this process is inherited by accident
    # Leaving the pool, also by an exception, ends its processes.
    with context.Pool(min(jobs, len(todo)), _start_worker) as pool:
        yield from pool.imap_unordered(_one, todo)


def _start_worker() -> None:
    """Ctrl-C reaches the whole group of processes; the parent alone answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code_hash()  # of what has just been imported, whatever is edited while this process lives


def _one(cell: Cell) -> tuple[Cell, Measured, str]:
    code = code_hash(cell.policy)
    return cell, measure(cell), code


def _origin() -> dict[str, object]:
    host = describe_host()
    return {
        "cpu_model": host.get("cpu"),
        "cores": host.get("cores"),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }
