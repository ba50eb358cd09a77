"""The rows of a report's table: the runs of one configuration, seeds taken together, against stock vLLM."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Run = Mapping[str, Any]
"""A run object of `agentcache-replay/1`."""

BASELINE = "vllm-lru"
CONDITIONS = ("engine", "slots", "cache_tokens", "profile", "output_mode", "source")
"""What must be equal for a ratio to mean anything; policy, admission and hints are what is compared."""
COMPARED = ("policy", "admission", "hints", "oracle", "interrupted")
MARKS = {"oracle": "oracle: it was told the pauses", "interrupted": "interrupted"}
"""What sets a row apart from all others, wherever it stands."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One configuration: its runs, one a seed, and the stock run of the same conditions and seed for each (or None)."""

    label: str
    name: str  # the label for a table that has a column for admission
    runs: tuple[Run, ...]
    stock: tuple[Run | None, ...]

    def value(self, path: str) -> float | None:
        """Median over seeds of a field, given as `job_latency_s.mean`; None where no run knows it."""
        return _median(field(run, path) for run in self.runs)

    def ratio(self, path: str) -> float | None:
        """Median over seeds of the field divided by stock vLLM's on the same seed."""
        return _median(self.ratios(path))

    def ratios(self, path: str) -> list[float]:
        """The ratio of each seed for which both runs know the field and stock's is not 0."""
        pairs = ((field(run, path), field(stock, path)) for run, stock in zip(self.runs, self.stock, strict=True))
        return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]

    def total(self, path: str) -> float | None:
        """Sum over seeds of a count; None where no run knows it."""
        known = [count for run in self.runs if (count := field(run, path)) is not None]
        return sum(known) if known else None

    def share(self, path: str) -> float | None:
        """Median over seeds of a token count as a fraction of the prompt tokens."""
        return self.part(path, "prompt_tokens")

    def part(self, path: str, whole: str) -> float | None:
        """Median over seeds of one count as a fraction of another."""
        pairs = ((field(run, path), field(run, whole)) for run in self.runs)
        return _median(some / every for some, every in pairs if some is not None and every)

    @property
    def latencies_s(self) -> list[float]:
        """The latencies of all jobs of all seeds, sorted."""
        return sorted(latency_s for run in self.runs for latency_s in run.get("job_latencies_s") or ())

    @property
    def admission(self) -> str | None:
        return self.runs[0].get("admission")

    @property
    def is_stock(self) -> bool:
        return all(run is stock for run, stock in zip(self.runs, self.stock, strict=True))


def field(run: Run | None, path: str) -> float | None:
    """A number in a run object, by its path with dots; None where the run, or anything on the way, is absent."""
    value: Any = run
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def rows(runs: Sequence[Run]) -> list[ReportRow]:
    """Group runs that differ in nothing but their seed, in order of first appearance."""
    varying = [key for key in ("admission", "hints", *CONDITIONS) if len({str(run.get(key)) for run in runs}) > 1]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(str(run.get(key)) for key in (*COMPARED, *CONDITIONS)), []).append(run)
    return [
        ReportRow(
            _label(group[0], varying),
            _label(group[0], [key for key in varying if key != "admission"]),
            tuple(group),
            tuple(_stock_of(run, runs) for run in group),
        )
        for group in groups.values()
    ]


@dataclass(frozen=True, slots=True)
class Change:
    """One configuration in a first result and in a later one; `pairs` are the runs of equal seeds."""

    label: str
    source: str
    pairs: tuple[tuple[Run, Run], ...]

    def ratio(self, path: str) -> float | None:
        """Median over seeds of the later value over the first one."""
        both = ((field(first, path), field(later, path)) for first, later in self.pairs)
        return _median(later / first for first, later in both if later is not None and first)


def changes(runs: Sequence[Run]) -> list[Change]:
    """The configurations of the first source that later sources have too, each beside the first; by source."""
    sources = list(dict.fromkeys(str(run.get("source")) for run in runs))
    same = ("engine", "slots", "output_mode", *COMPARED)
    found: dict[tuple[str, ...], list[tuple[Run, Run]]] = {}
    for first in (run for run in runs if str(run.get("source")) == sources[0]):
        for later in (run for run in runs if str(run.get("source")) != sources[0]):
            if all(first.get(key) == later.get(key) for key in ("seed", *same)):
                key = (str(later.get("source")), *(str(first.get(key)) for key in same))
                found.setdefault(key, []).append((first, later))
    varying = [key for key in ("admission", "hints", "engine") if len({str(run.get(key)) for run in runs}) > 1]
    return [Change(_label(pairs[0][0], varying), key[0], tuple(pairs)) for key, pairs in found.items()]


TIE = 0.001
"""Mean job latencies that are not further apart are the same."""
FITS = 0.8
"""Live contexts over the pool, below which everything fits."""


def verdict(table: Sequence[ReportRow]) -> str:
    """One sentence: which row has the lowest mean job latency, and by how much, whatever the truth."""
    timed = [(latency_s, row) for row in table if (latency_s := row.value("job_latency_s.mean")) is not None]
    if not timed:
        return "No job finished, so nothing can be said about job latency."
    latency_s, best = min(timed, key=lambda pair: pair[0])
    worst_s = max(value for value, _ in timed)
    if len(timed) > 1 and worst_s <= (1 + TIE) * latency_s:
        roomy = all((run.get("live_pool") or 1.0) < FITS for row in table for run in row.runs)
        why = (
            " The pool holds nearly all that is live, so nothing has to be chosen: try a smaller one." if roomy else ""
        )
        return f"All have the same mean job latency, {latency_s:.2f} s.{why}"
    sentence = f"{best.label} had the lowest mean job latency, {latency_s:.2f} s"
    if best.is_stock:
        others = [(ratio, row) for _, row in timed if row is not best and (ratio := row.ratio("job_latency_s.mean"))]
        if not others:
            return f"{sentence}."
        ratio, second = min(others, key=lambda pair: pair[0])
        return f"{sentence}: stock vLLM won; the best of the others, {second.label}, took {ratio:.2f} times as long."
    ratio = best.ratio("job_latency_s.mean")
    return f"{sentence}: {ratio:.2f} times that of stock vLLM." if ratio else f"{sentence}; there is no stock run."


def common(runs: Sequence[Run], key: str) -> Any:
    """The value of a field that all runs share; None where they differ or do not know it."""
    values = [run.get(key) for run in runs]
    return values[0] if values and all(value == values[0] for value in values) else None


def _stock_of(run: Run, runs: Sequence[Run]) -> Run | None:
    same = [
        other
        for other in runs
        if other.get("policy") == BASELINE and all(other.get(key) == run.get(key) for key in ("seed", *CONDITIONS))
    ]
    # Stock vLLM admits first come first served; any other row of its policy is a variation on it.
    return min(same, key=lambda other: other.get("admission") != "fcfs", default=None)


def _label(run: Run, varying: Sequence[str]) -> str:
    notes = [text for key, text in MARKS.items() if run.get(key)] + [_note(key, run.get(key)) for key in varying]
    return f"{run.get('policy')} ({', '.join(notes)})" if notes else str(run.get("policy"))


def _note(key: str, value: Any) -> str:
    if key in ("admission", "engine", "source"):  # their values say what they are
        return str(value)
    if isinstance(value, bool):
        value = "on" if value else "off"
    return f"{key.replace('_', ' ')} {value}"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
