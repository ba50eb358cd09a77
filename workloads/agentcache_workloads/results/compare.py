"""Rows compared within their cells: against stock vLLM, against the oracle, and against the figure's goals."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from agentcache.errors import ConfigError
from agentcache_workloads.results.cells import STOCK, STOCK_ADMISSION
from agentcache_workloads.results.columns import column
from agentcache_workloads.results.config import Goal
from agentcache_workloads.results.rows import Row

ORACLE = "belady-compute"
GAP_AT_LEAST = 0.5
"""Points between stock and oracle below which a share of the gap says nothing."""

PLACE = ("variant", "arrival", "profile", "slots", "cache_tokens", "block_size")
Place = tuple[str, ...]
"""The values of `PLACE`: one cell of a table, its seeds taken together."""

_TESTS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what the rows say; `value` None: there are no rows to say it."""

    goal: Goal
    value: float | None
    cells: int

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        if self.goal.at_most is not None:
            return self.value <= self.goal.at_most
        assert self.goal.at_least is not None
        return self.value >= self.goal.at_least


class Comparison:
    """The rows of one figure, by contender, place and seed. A contender is `policy`, `policy @ admission`, ..."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[str, Place, str], Row] = {}
        rows = list(rows)
        self._hints_vary = len({row["hints"] for row in rows if row["policy"] != STOCK}) > 1
        for row in rows:
            self._rows[self._name(row), tuple(row[key] for key in PLACE), row["seed"]] = row

    def _name(self, row: Row) -> str:
        name = row["policy"]
        if row["admission"] != STOCK_ADMISSION:
            name += f" @ {row['admission']}"
        return f"{name}, no hints" if self._hints_vary and row["hints"] == "False" and name != STOCK else name

    @property
    def contenders(self) -> list[str]:
        return list(dict.fromkeys(name for name, _, _ in self._rows))

    @property
    def places(self) -> list[Place]:
        return list(dict.fromkeys(place for _, place, _ in self._rows))

    @property
    def seeds(self) -> list[str]:
        return list(dict.fromkeys(seed for _, _, seed in self._rows))

    def values(self, name: str, place: Place, what: str) -> dict[str, float]:
        """A column's value for each seed that has one."""
        found = {}
        for seed in self.seeds:
            text = self._rows.get((name, place, seed), {}).get(what)
            if text:
                found[seed] = float(text)
        return found

    def value(self, name: str, place: Place, what: str) -> float | None:
        """The median over seeds."""
        return _median(self.values(name, place, what).values())

    def against(self, name: str, base: str, place: Place, what: str, how: str | None = None) -> float | None:
        """The median over seeds of the ratio or difference to another contender on the same seed."""
        mine, theirs = self.values(name, place, what), self.values(base, place, what)
        if (how or column(what).how) == "difference":
            return _median(mine[seed] - theirs[seed] for seed in mine if seed in theirs)
        return _median(mine[seed] / theirs[seed] for seed in mine if theirs.get(seed))

    def gap(self, name: str, place: Place, what: str = "saved_percent", base: str = STOCK) -> float | None:
        """The share of the way from `base` to the oracle, 1 is the oracle's; median over seeds.

        None where the two are closer than `GAP_AT_LEAST`.
        """
        mine, theirs, best = (self.values(who, place, what) for who in (name, base, ORACLE))
        return _median(
            (mine[seed] - theirs[seed]) / (best[seed] - theirs[seed])
            for seed in mine
            if seed in theirs and seed in best and best[seed] - theirs[seed] >= GAP_AT_LEAST
        )

    def lost(self, name: str, place: Place, what: str, base: str = STOCK) -> bool:
        """Whether the contender is behind stock vLLM by more than a tie."""
        shown = column(what)
        change = self.against(name, base, place, what)
        if change is None or not shown.better:
            return False
        return shown.better * (change - (1.0 if shown.how == "ratio" else 0.0)) < -shown.tie

    def holds(self, condition: str, place: Place) -> bool:
        """Whether a condition such as `live_pool >= 2` is true of the stock row of a place."""
        parts = condition.split()
        if len(parts) != 3 or parts[1] not in _TESTS:
            raise ConfigError(f"condition {condition!r} is not `column < number`; nothing was compared")
        if parts[0] in PLACE and not _is_number(found := place[PLACE.index(parts[0])]):
            return parts[1] == "=" and found == parts[2]
        value = float(found) if parts[0] in PLACE else self.value(STOCK, place, parts[0])
        return value is not None and _TESTS[parts[1]](value, float(parts[2]))

    def judge(self, goal: Goal) -> Verdict:
        """What the rows say of a goal, over the places where all its conditions hold."""
        values = []
        for place in self.places:
            if all(self.holds(condition, place) for condition in goal.where):
                value = self._goal_value(goal, place)
                if value is not None:
                    values.append(value)
        if not values:
            return Verdict(goal, None, 0)
        over: dict[str, Callable[[Sequence[float]], float]] = {"median": median, "max": max, "min": min}
        return Verdict(goal, over[goal.over](values), len(values))

    def _goal_value(self, goal: Goal, place: Place) -> float | None:
        if goal.how == "value":
            return self.value(goal.row, place, goal.column)
        if goal.how == "gap":
            return self.gap(goal.row, place, goal.column, goal.against[0])
        rivals = {name: value for name in goal.against if (value := self.value(name, place, goal.column)) is not None}
        if not rivals:
            return None
        best = max if column(goal.column).better > 0 else min
        return self.against(goal.row, best(rivals, key=rivals.__getitem__), place, goal.column, goal.how)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None
