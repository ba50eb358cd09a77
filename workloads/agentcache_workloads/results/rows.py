"""The rows of a figure, kept as CSV: what is published is also what a later run does not repeat."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentcache.errors import InputError
from agentcache.files import write_csv
from agentcache_workloads.results.cells import Cell

Row = Mapping[str, str]
"""A row as text, by column; absent and empty are alike."""

CELL = ("variant", "arrival", "profile", "slots", "cache_tokens", "block_size", "seed", "policy", "admission", "hints")
ORIGIN = ("cpu_s", "cpu_model", "cores", "date", "commit", "code", "key")


def cell_columns(cell: Cell) -> dict[str, str]:
    """The fields of a cell that tell its row from the figure's others."""
    return {name: _text(getattr(cell, name)) for name in CELL}


def as_row(cell: Cell, measured: Mapping[str, object], origin: Mapping[str, object]) -> Row:
    """A row of text: numbers with the six digits that mean something."""
    rest = {**measured, **origin, "key": cell.key}
    return cell_columns(cell) | {name: _text(value) for name, value in rest.items()}


def load_rows(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file. Raises `InputError` for one that is no CSV of ours."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"rows {path} cannot be read: {error}; nothing was run", hint="remove the file") from error
    if any(None in row or None in row.values() for row in rows):
        raise InputError(f"rows {path} has lines of different lengths; nothing was run", hint="remove the file")
    return list(rows)


def save_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a file anew, whole or not at all."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [*CELL, *(name for name in names if name not in CELL and name not in ORIGIN), *ORIGIN]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, rows, columns)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
