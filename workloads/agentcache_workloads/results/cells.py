"""The cells of a figure: every combination of its matrix, and the hash under which a cell's row is kept."""

import json
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path

import msgspec

from agentcache_workloads.results.config import Figure, Matrix, Workload, changed

STOCK = "vllm-lru"
STOCK_ADMISSION = "fcfs"

_LATER = ("bfcl", "pause_s", "jobs")
"""Fields of a workload that are younger than published rows: unused, they leave the keys of those as they are.

So it is with those of host memory.
"""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Rows of one cell differ in policy, admission and hints only in what they are compared by."""

    engine: str
    variant: str
    workload: Workload
    policy: str
    admission: str
    hints: bool
    slots: int
    cache_tokens: int
    block_size: int
    seed: int
    profile: str
    arrival: str
    host_pools: float | None = None
    host_gbps: float | None = None

    @property
    def key(self) -> str:
        """A hash of all that was asked for, the trace's content included; the code is not in it."""
        trace = trace_hash(self.workload.trace) if self.workload.trace else ""
        asked = msgspec.to_builtins(self)
        for part, later in ((asked["workload"], _LATER), (asked, ("host_pools", "host_gbps"))):
            for name in later:
                if part[name] is None:
                    del part[name]
        text = json.dumps([asked, trace], sort_keys=True)
        return sha256(text.encode()).hexdigest()[:16]


def cells(figure: Figure) -> Iterator[Cell]:
    """All cells, those that share turns next to each other. Stock vLLM has its own admission, and no hints to read."""
    m = figure.matrix
    for variant in figure.variants or [{"name": ""}]:
        workload = changed(figure.workload, {key: value for key, value in variant.items() if key != "name"})
        axes = m.seeds, m.slots, m.block_size, m.profiles, m.arrivals, m.cache_tokens, _tiers(m), _contenders(figure)
        for seed, slots, size, profile, arrival, tokens, tier, contender, hints in product(*axes, m.hints):
            policy, admission = contender
            if policy == STOCK and hints != m.hints[0]:
                continue
            yield Cell(
                engine=figure.engine,
                variant=", ".join(filter(None, (variant["name"], _named(*tier)))),
                workload=workload,
                policy=policy,
                admission=admission,
                hints=hints,
                slots=slots,
                cache_tokens=tokens,
                block_size=size,
                seed=seed,
                profile=profile,
                arrival=arrival,
                host_pools=tier[0],
                host_gbps=tier[1],
            )


def _tiers(matrix: Matrix) -> list[tuple[float | None, float | None]]:
    return [*product(matrix.host_pools, matrix.host_gbps)] or [(None, None)]


def _named(pools: float | None, gbps: float | None) -> str:
    return "" if pools is None else f"tier {pools:g}x, {gbps:g} GB/s"


def _contenders(figure: Figure) -> list[tuple[str, str]]:
    pairs = []
    for name in figure.matrix.policies:
        policy, own, admission = name.partition(" @ ")
        admissions = [admission] if own else [STOCK_ADMISSION] if policy == STOCK else figure.matrix.admissions
        pairs += [(policy, chosen) for chosen in admissions]
    return pairs


def trace_path(name: str) -> Path:
    """A trace by its name in the project's data, or by a path."""
    carried = Path(__file__).parents[2] / "data" / name
    return carried if carried.is_file() else Path(name)


@cache
def trace_hash(name: str) -> str:
    """SHA-256 of a trace file; empty for one that does not exist, which the run will report."""
    path = trace_path(name)
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
