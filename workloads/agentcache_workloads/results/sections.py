"""Sections that other benchmarks bring: a CSV of rows, and beside it a TOML that says what they are."""

import csv
import tomllib
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.results.results_page import number, table


class ShownColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of the table: of the CSV, or of `by`; the number with so many digits."""

    name: str
    title: str
    digits: int = 2


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A goal on the median of a column, over the rows in which each column of `where` has the value given."""

    text: str
    column: str
    where: dict[str, str] = {}
    at_most: float | None = None
    at_least: float | None = None


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`by` names the columns that make a line; of rows that share them the median is shown, and how many there are."""

    title: str
    text: str
    command: str
    by: list[ShownColumn]
    columns: list[ShownColumn]
    order: int = 80
    goals: list[Bound] = []


def load_section(path: Path) -> Section:
    """Raises `ConfigError` for a file that is no section."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Section)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"section {path} is not usable: {error}; the page was not written") from error


def bench_section(path: Path) -> tuple[int, str]:
    """The section of `NAME.toml` with the rows of `NAME.csv`, and where it stands in the page."""
    section = load_section(path)
    source = path.with_suffix(".csv")
    if not source.exists():
        lines = [f"## {section.title}", "", "Not measured yet.", "", "```bash", section.command, "```", ""]
        return section.order, "\n".join(lines)
    try:
        with source.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise InputError(f"section {path} has no rows: {error}; the page was not written") from error
    wanted = {shown.name for shown in (*section.by, *section.columns)} | {goal.column for goal in section.goals}
    if rows and (absent := sorted(wanted - rows[0].keys())):
        raise ConfigError(f"{source} has no column {', '.join(absent)}; the page was not written")
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[shown.name] for shown in section.by), []).append(row)
    head = [*(shown.title for shown in section.by), "rows", *(shown.title for shown in section.columns)]
    body = [
        [*group, str(len(members)), *(number(_middle(members, shown.name), shown.digits) for shown in section.columns)]
        for group, members in groups.items()
    ]
    lines = [f"## {section.title}", "", section.text.strip(), ""]
    if section.goals:
        found = [_goal(goal, rows) for goal in section.goals]
        lines += [*table(["goal", "rows", "wanted", "found", ""], found, left=3), ""]
    lines += [*table(head, body, left=len(section.by)), "", "```bash", section.command, "```", "", _origin(rows), ""]
    return section.order, "\n".join(lines)


def _goal(goal: Bound, rows: Sequence[dict[str, str]]) -> list[str]:
    chosen = [row for row in rows if all(row.get(key) == value for key, value in goal.where.items())]
    value = _middle(chosen, goal.column)
    limit = goal.at_most if goal.at_most is not None else goal.at_least
    if limit is None or (goal.at_most is not None and goal.at_least is not None):
        raise ConfigError(f"goal {goal.text!r} has either at_most or at_least; the page was not written")
    met = value is not None and (value <= limit if goal.at_most is not None else value >= limit)
    bound = f"at {'most' if goal.at_most is not None else 'least'} {limit:g}"
    verdict = "no rows" if value is None else "met" if met else "**not met**"
    return [goal.text, str(len(chosen)), bound, number(value, 3), verdict]


def _middle(rows: Sequence[dict[str, str]], name: str) -> float | None:
    try:
        known = [float(row[name]) for row in rows if row[name]]
    except ValueError as error:
        raise ConfigError(f"column {name} holds text: {error}; the page was not written") from error
    return median(known) if known else None


def _origin(rows: Sequence[dict[str, str]]) -> str:
    def all_of(key: str) -> str:
        return ", ".join(sorted({row.get(key) or "unknown" for row in rows})) or "unknown"

    return f"Commit {all_of('commit')}; {all_of('cpu_model')}, {all_of('cores')} cores; {len(rows)} rows."
