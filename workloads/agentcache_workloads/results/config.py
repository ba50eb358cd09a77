"""A figure's configuration, from TOML: what is run, as a matrix, and what its table has to show."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.generators.bfcl_search import BfclSearch
from agentcache_workloads.generators.gamma import Gamma

Half = Literal["tune", "report", "all"]


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The jobs: of a trace file beside the project's data, or of a generator.

    `half`: the sessions that parameters are chosen on, or those that are reported (see `workload.half_of`). `calls`:
    whole jobs, in the seed's order, until there are so many calls; None takes all. `max_ctx`: prompt tokens above
    which a job is cut. `max_pause_s` caps recorded pauses, before they are multiplied by `time_scale`. `giant_ctx`: the
    job with the most prompt tokens comes first, cut at this context instead. `urgent_every`: every so many jobs, one
    is of a higher priority than the others. `pause_s`: all pauses are this long instead. `jobs`: the sessions come
    again until there are so many, as other jobs.
    """

    trace: str | None = None
    gamma: Gamma | None = None
    half: Half = "report"
    calls: int | None = 4000
    max_ctx: int | None = 131_072
    max_pause_s: float = 600.0
    time_scale: float = 1.0
    giant_ctx: int | None = None
    urgent_every: int | None = None
    bfcl: BfclSearch | None = None
    pause_s: float | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.trace, self.gamma, self.bfcl)) != 1:
            raise ValueError("a workload has either a trace or one generator (gamma, bfcl)")


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every combination is one cell. `cache_tokens` is the pool; `block_size` tokens a block.

    A policy may bring its own admission, `lru @ working-set`; the others are combined with each of `admissions`.
    `host_pools`: a tier in host memory of so many pools, under each cell's own policy, at each speed of `host_gbps`.
    """

    policies: tuple[str, ...]
    admissions: tuple[str, ...] = ("fcfs",)
    slots: tuple[int, ...] = (8,)
    cache_tokens: tuple[int, ...] = (500_000,)
    block_size: tuple[int, ...] = (512,)
    seeds: tuple[int, ...] = (1, 2, 3)
    profiles: tuple[str, ...] = ("h20-like",)
    arrivals: tuple[str, ...] = ("closed",)
    hints: tuple[bool, ...] = (True,)
    host_pools: tuple[float, ...] = ()
    host_gbps: tuple[float, ...] = (25.0,)


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number that the rows must reach.

    `how`: the row's own value, its ratio to or difference from the `against` row of the same cell (of several the best
    one), or the share of the way from `against` to `belady-compute`. `over`: of all cells the median, max or min.
    `where` picks cells by conditions on the stock row, as in `saved_percent < 80`. Rows are named `policy`, or
    `policy @ admission`.
    """

    text: str
    column: str
    row: str
    against: tuple[str, ...] = ("vllm-lru",)
    how: Literal["value", "ratio", "difference", "gap"] = "ratio"
    over: Literal["median", "max", "min"] = "median"
    where: tuple[str, ...] = ()
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"goal {self.text!r} has either at_most or at_least")


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One figure. `full` and `variants` change fields of `workload`; a variant is one more axis of the matrix."""

    name: str
    title: str
    text: str
    engine: Literal["fixed", "sim", "capacity"]
    workload: Workload
    matrix: Matrix
    columns: tuple[str, ...]
    headline: str
    order: int = 50
    variants: tuple[dict[str, Any], ...] = ()
    full: dict[str, dict[str, Any]] = {}
    goals: tuple[Goal, ...] = ()

    def with_full(self) -> "Figure":
        """The figure with the changes of its `full` table, under a name of its own."""
        return msgspec.structs.replace(
            self,
            name=f"{self.name}-full",
            title=f"{self.title} (full)",
            workload=changed(self.workload, self.full.get("workload", {})),
            matrix=changed(self.matrix, self.full.get("matrix", {})),
        )


def changed(value: Any, changes: dict[str, Any]) -> Any:
    """A struct with some fields changed, checked again; raises `msgspec.ValidationError`."""
    return msgspec.convert({**msgspec.to_builtins(value), **changes}, type(value))


def load_figure(path: str | Path) -> Figure:
    """Read a figure. Raises `InputError` for a file that cannot be read, `ConfigError` for one that makes no sense."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"figure {path} cannot be read: {error}; nothing was run") from error
    try:
        figure = msgspec.convert(data, Figure)
        for variant in figure.variants:
            changed(figure.workload, {k: v for k, v in variant.items() if k != "name"})
        figure.with_full()
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"figure {path} is not usable: {error}; nothing was run") from error
    return figure
