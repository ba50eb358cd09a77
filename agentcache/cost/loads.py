"""Loaded or computed: what a turn's missing blocks cost from below, and which of them are sooner there that way.

The head of a context is cheap to compute and its tail dear, while every block costs the same to load. So whatever
number of blocks is loaded, it is the last ones; what stands before them is computed meanwhile.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf, isfinite
from typing import NamedTuple

from agentcache.cost.model import CostModel
from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError


class Run(NamedTuple):
    """Consecutive missing blocks of a turn, from index `start` to before `end`; `below`: the tier holds them."""

    start: int
    end: int
    below: bool


class Split(NamedTuple):
    """Runs of block indices, each missing block in one of the two; `seconds` until all of them are in place."""

    loaded: tuple[tuple[int, int], ...]
    computed: tuple[tuple[int, int], ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadPrice:
    """Seconds of a load: `copy_s` for any, and `block_s` for each of its blocks.

    Raises `ConfigError` for a number below 0, or that is not finite.
    """

    block_s: float
    copy_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(isfinite(seconds) and seconds >= 0 for seconds in (self.block_s, self.copy_s)):
            raise ConfigError(f"{self}: finite seconds >= 0 were expected; no block is loaded at that price")

    @classmethod
    def of_link(cls, block_bytes: float, bytes_per_s: float, copy_s: float = 0.0) -> "LoadPrice":
        """Of blocks of so many bytes over so fast a link. Raises `ConfigError` for a link without a speed."""
        if not (isfinite(bytes_per_s) and bytes_per_s > 0):
            raise ConfigError(
                f"a link of {bytes_per_s / 1e9:g} GB/s: a speed above 0 was expected; nothing could ever be loaded"
            )
        return cls(block_bytes / bytes_per_s, copy_s)

    def seconds(self, blocks: int) -> float:
        """Of one load of so many blocks; 0 for none."""
        return self.copy_s + self.block_s * blocks if blocks else 0.0


def split_runs(
    missing: Sequence[Run], cost: CostModel, price: LoadPrice, wait_s: float = 0.0, others: int = 0
) -> Split:
    """Load or compute each missing block of a turn, ascending, so that it costs all turns together the least.

    The link is free after `wait_s`. A load runs beside the computation of what stands before its first block; what
    stands behind that, and is computed, reads what was loaded and comes after it:

        seconds = max(wait + load, compute before) + compute behind

    So long does the turn itself wait; each of `others` that are under way waits for what it computes.
    """
    computed_s = [cost.run_seconds(run.start, run.end - run.start) for run in missing]
    before_s = list(accumulate(computed_s, initial=0.0))
    behind_s = 0.0  # computed behind the first block that is loaded
    loaded = 0  # blocks from here on
    seconds, first = before_s[-1], missing[-1].end if missing else 0
    best = (1 + others) * seconds

    for number in range(len(missing) - 1, -1, -1):
        run = missing[number]
        if not run.below:
            behind_s += computed_s[number]
            continue
        for start in _candidates(run, loaded, before_s[number], cost, price, wait_s, others):
            head_s = before_s[number] + cost.run_seconds(run.start, start - run.start)
            there_s = max(wait_s + price.seconds(loaded + run.end - start), head_s) + behind_s
            if (price_s := there_s + others * (head_s + behind_s)) < best:
                best, seconds, first = price_s, there_s, start
        loaded += run.end - run.start
    return _at(missing, first, seconds)


def _candidates(
    run: Run, loaded: int, before_s: float, cost: CostModel, price: LoadPrice, wait_s: float, others: int
) -> Iterable[int]:
    """Where within a run a load may best begin: at its first block, or where computation and load take equally long.

    Or before that, from where on a block costs others more than its load takes.
    """
    low, high = run.start, run.end - 1
    while low < high:  # the first start at which what is computed before takes no less than the load
        middle = (low + high) // 2
        if before_s + cost.run_seconds(run.start, middle - run.start) < wait_s + price.seconds(
            loaded + run.end - middle
        ):
            low = middle + 1
        else:
            high = middle
    dear = min(max(_dear_from(cost, price, others), run.start), run.end - 1) if others else run.start
    return {run.start, max(low - 1, run.start), low, dear}


def _dear_from(cost: CostModel, price: LoadPrice, others: int) -> int:
    """The first block whose computation costs the others no less than its load takes."""
    gain_s = price.block_s / others - cost.a
    return max(ceil(gain_s / cost.b), 0) if cost.b else 0


def _at(missing: Sequence[Run], first: int, seconds: float) -> Split:
    """What is below is loaded from index `first` on, all else is computed."""
    loaded, computed = list[tuple[int, int]](), list[tuple[int, int]]()
    for start, end, below in missing:
        cut = min(max(first, start), end) if below else end
        for runs, low, high in ((computed, start, cut), (loaded, cut, end)):
            if low < high and runs and runs[-1][1] == low:
                runs[-1] = runs[-1][0], high
            elif low < high:
                runs.append((low, high))
    return Split(tuple(loaded), tuple(computed), seconds)


def split_prefix(
    missing: Sequence[Run], cost: CostModel, price: LoadPrice, wait_s: float = 0.0, others: int = 0
) -> Split:
    """The same where only an unbroken prefix is reused: what is loaded extends what is resident, or nothing is.

    All that extends it or none: the longer the extension, the dearer the blocks that one more spares.
    """
    computed_s = sum(cost.run_seconds(run.start, run.end - run.start) for run in missing)
    first = missing[0] if missing else Run(0, 0, False)
    end = first.start
    for run in missing:
        if not run.below or run.start != end:
            break
        end = run.end
    spared_s = cost.run_seconds(first.start, end - first.start)
    load_s = wait_s + price.seconds(end - first.start)
    if end == first.start or (1 + others) * spared_s <= load_s:
        return _at(missing, missing[-1].end if missing else 0, computed_s)
    inside = [Run(run.start, run.end, run.end <= end) for run in missing]
    return _at(inside, first.start, load_s + computed_s - spared_s)


def missing_runs(held: Iterable[tuple[int, bool]]) -> Iterator[Run]:
    """Runs of (index, below) pairs that ascend."""
    start = end = 0
    kind = False
    for index, below in held:
        if index != end or below is not kind:
            if start < end:
                yield Run(start, end, kind)
            start, kind = index, below
        end = index + 1
    if start < end:
        yield Run(start, end, kind)


LONG_TOKENS = 32_768
"""Where in a context a block stands that is neither cheap nor dear."""


def spared_share(cost: CostModel, price: LoadPrice) -> float:
    """Which share of a rebuild a load spares, 0 to 1: of a block in the middle of a long context."""
    return max(1 - price.block_s / cost.block_seconds(LONG_TOKENS // cost.block_size), 0.0)


class TieredCost(CostModel):
    """Prices of a device under which all is held by a tier: what leaves it costs a load where that is sooner."""

    def __init__(self, profile: CostProfile, block_size: int, price: LoadPrice) -> None:
        super().__init__(profile, block_size)
        self.price = price
        # So many blocks from the first on are sooner computed.
        gain_s = price.block_s - self.a
        self._sooner: float = max(ceil(gain_s / self.b), 0) if self.b else inf if gain_s > 0 else 0

    def block_seconds(self, index: int) -> float:
        return min(super().block_seconds(index), self.price.block_s)

    def run_seconds(self, head: int, count: int) -> float:
        computed = int(min(max(self._sooner - head, 0), count))
        return super().run_seconds(head, computed) + (count - computed) * self.price.block_s
