"""A sample of the simulated rows of all figures, made before and after a change that must leave every row as it is.

    python scripts/bench/sample_rows.py run before.csv                        # at the last commit before the change
    python scripts/bench/sample_rows.py run after.csv --like before.csv       # and after it: the same cells
    python scripts/bench/sample_rows.py compare before.csv after.csv          # to the last digit
    python scripts/bench/sample_rows.py published before.csv                  # to the six digits that are published

The cells: of each figure the cheapest published row (`cpu_s`) of every policy, whatever its options, and admission,
among those that evict, less what takes over `DEAR_S`, or the first alone if all do; then `LAYERS` over the cheapest
stock row of `LAYERED`, since few figures have a retention layer; then the cluster's simulation, by the functions of
its own benches. Seven to nine minutes of one core.

`compare` prints `N rows over M figures: equal` and the pairs of codes that this shows, as tables for
`workloads/agentcache_workloads/results/equal.toml`, by which rows of the older code keep their standing; or the first
differences, and exits with 1. Columns of time, machine and commit are not in a sample: `--commit` names the commits
of both files in the tables.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from agentcache.specs import Spec, split_layers
from agentcache_workloads.results.cells import STOCK, Cell, cells
from agentcache_workloads.results.config import load_figure
from agentcache_workloads.results.measure import measure
from agentcache_workloads.results.row_code import code_hash
from agentcache_workloads.results.rows import CELL, ORIGIN, Row, load_rows

sys.path.append(str(Path(__file__).parent / "service"))  # the benches of the cluster's simulation
import cluster
import routing_sim

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
DEAR_S = 3.0
LAYERED = ("policies-cc-weka", "no-hints", "paper-8b", "mixes")
LAYERS = (
    *("ttl+lru", "ttl:tau_s=3+asymcache", "ttl+arc", "ttl:tau_s=30+lru-holes", "continuum-never+lru"),
    *("continuum-always+asymcache", "continuum-fixed:s=2+lru-holes", "continuum-preview+lru", "continuum-oracle+lru"),
    *("continuum+return-index", "continuum+arc"),
)
TOLD = ("continuum-oracle+lru",)
"""What the queueing simulation alone tells the pauses, with hints."""
CLUSTER = ("residency", cluster.POOLS[2], 1)
SHARED = ("variant", "seed", "block_size", "slots", "arrival")
"""Cells that agree in these run one after the other: they share their jobs and turns."""
WHO = ("figure", "key")
APART = {*WHO, "code"}
SHOWN = 12


def candidates() -> Iterator[tuple[str, Cell]]:
    """The cells of all figures, and those with a layer, by their figure."""
    for path in sorted((ROOT / "workloads" / "configs").glob("*.toml")):
        figure = load_figure(path)
        for cell in cells(figure):
            yield figure.name, cell
            if figure.name in LAYERED and cell.policy == STOCK:
                yield from ((figure.name, layered) for layered in layers(cell))


def layers(cell: Cell) -> list[Cell]:
    """The cell under each retention layer that can run there."""
    can = [layer for layer in LAYERS if layer not in TOLD or (cell.engine == "sim" and cell.hints)]
    return [msgspec.structs.replace(cell, policy=layer) for layer in can]


def chosen(found: Mapping[tuple[str, str], Cell]) -> list[tuple[str, str]]:
    """Figure and key of the cells to run, by the rule above."""
    keys: list[tuple[str, str]] = []
    for name in dict.fromkeys(name for name, _ in found):
        rows = [row for row in load_rows(RESULTS / f"{name}.csv") if (name, row["key"]) in found]
        rows.sort(key=lambda row: (row.get("evictions") == "0", float(row["cpu_s"]), row["key"]))
        cheapest: dict[tuple[str, str], Row] = {}
        for row in rows:
            named = "+".join(Spec("policy", part).name for part in split_layers(row["policy"]))
            cheapest.setdefault((named, row["admission"]), row)
        taken = [row for row in cheapest.values() if float(row["cpu_s"]) <= DEAR_S] or rows[:1]
        keys += [(name, row["key"]) for row in taken]
        if name in LAYERED:
            stock = found[name, next(row["key"] for row in rows if row["policy"] == STOCK)]
            keys += [(name, layered.key) for layered in layers(stock)]
    return keys


def sampled(like: Path | None) -> Iterator[dict[str, str]]:
    """The rows, each as it is ready; `like` is a sample whose cells are run rather than those of the rule."""
    found = {(name, cell.key): cell for name, cell in candidates()}
    clusters = {"cluster", "routing-sim"}
    keys = [(row["figure"], row["key"]) for row in load_rows(like)] if like else chosen(found)
    asked = [(name, found[name, key]) for name, key in keys if name not in clusters]
    asked.sort(key=lambda each: (each[0], *(getattr(each[1], field) for field in SHARED)))
    for name, cell in asked:
        row = {column: getattr(cell, column) for column in CELL} | dict(measure(cell))
        yield text({"figure": name, "key": cell.key, "code": code_hash(cell.policy)} | row)
    own = {"code": code_hash()}
    for row in routing_sim.measure([1]):
        key = ",".join(str(row[name]) for name in ("slowdown", "pool_tokens", "router", "seed"))
        yield text({"figure": "routing-sim", "key": key} | own | row)
    router, pool, seed = CLUSTER
    yield text({"figure": "cluster", "key": f"{router},{pool},{seed}"} | own | cluster.measure(router, pool, seed))


def text(row: Mapping[str, object]) -> dict[str, str]:
    """All digits of every number, but not of what the machine adds."""
    kept = {name: value for name, value in row.items() if name in APART or name not in ORIGIN}
    return {name: "" if value is None else str(value) for name, value in kept.items()}


def save(path: Path, rows: Sequence[Row]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def by_cell(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    return {(row["figure"], row["key"]): row for row in rows}


def differences(one: Sequence[Row], other: Sequence[Row], digits: int = 17) -> list[str]:
    """What two samples do not agree in, cell by cell; an absent column is an empty one."""
    ours, theirs = by_cell(one), by_cell(other)
    lines = [f"{figure} {key}: in one of them only" for figure, key in sorted(ours.keys() ^ theirs.keys())]
    for cell in (cell for cell in ours if cell in theirs):
        a, b = ours[cell], theirs[cell]
        for name in sorted((a.keys() | b.keys()) - APART):
            was, now = a.get(name, ""), b.get(name, "")
            if was != now and shortened(was, digits) != shortened(now, digits):
                lines.append(f"{cell[0]} {cell[1]} ({a.get('policy', '')}) {name}: {was} -> {now}")
    return lines


def shortened(number: str, digits: int) -> str:
    try:
        return f"{float(number):.{digits}g}"
    except ValueError:
        return number


def pairs(one: Sequence[Row], other: Sequence[Row], commits: tuple[str, str]) -> str:
    """The tables that equal samples are worth: of each code of `one`, the code of `other` that made the same rows."""
    theirs = by_cell(other)
    shown = sorted((row["code"], theirs[cell]["code"], row["figure"]) for cell, row in by_cell(one).items())
    tables = []
    for (old, new), rows in groupby(shown, key=lambda row: row[:2]):
        figures = [figure for _, _, figure in rows]
        head = f'[[equal]]\nold = "{old}"\nnew = "{new}"\nrows = {len(figures)}\nfigures = {len(set(figures))}\n'
        if old != new:
            tables.append(head + f'commits = ["{commits[0]}", "{commits[1]}"]\n')
    return "\n".join(tables)


def published(sample: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of a sample that are published too, and these; in the columns that both have."""
    mine, theirs = [], []
    for name in dict.fromkeys(row["figure"] for row in sample):
        kept = {row.get("key", ""): row for row in load_rows(RESULTS / f"{name}.csv")}
        for row in sample:
            if row["figure"] == name and (other := kept.get(row["key"])):
                both = {*WHO, "code", *(row.keys() & other.keys() - set(ORIGIN))}
                mine.append({column: row[column] for column in both})
                theirs.append({column: (other | {"figure": name})[column] for column in both})
    return mine, theirs


def report(one: Sequence[Row], other: Sequence[Row], digits: int, commits: tuple[str, str]) -> int:
    found = differences(one, other, digits)
    figures = {row["figure"] for row in one}
    print(f"{len(one)} rows over {len(figures)} figures: {f'{len(found)} differences' if found else 'equal'}")
    print("\n".join(found[:SHOWN]) if found else pairs(one, other, commits))
    return int(bool(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the cells, write their rows")
    run.add_argument("out", type=Path)
    run.add_argument("--like", type=Path, help="a sample whose cells are run again")
    two = commands.add_parser("compare", help="two samples")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--commit", nargs=2, default=("", ""), metavar=("BEFORE", "AFTER"))
    one = commands.add_parser("published", help="a sample against the published rows")
    one.add_argument("sample", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return report(load_rows(args.before), load_rows(args.after), 17, tuple(args.commit))
    if args.command == "published":
        return report(*reversed(published(load_rows(args.sample))), 6, ("", ""))
    rows: list[dict[str, str]] = []
    for row in sampled(args.like):
        rows.append(row)
        print(f"{time.process_time():6.1f} s  {row['figure']} {row['key']} {row.get('policy', '')}", file=sys.stderr)
        save(args.out, rows)
    print(f"{len(rows)} rows over {len({row['figure'] for row in rows})} figures, {time.process_time():.0f} s of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
