"""Oracles that know when each block is used next: what no online policy can beat by much."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import Block, Event, Key
from agentcache.policy.base import Reuse

NEVER_S = float("inf")


class Belady:
    """Evicts the block whose next use is farthest away (Belady, 1966): the most hits that any order can have.

    Reference counts are not foreseen: a block that is in use cannot be evicted, and is used again when it is. Of blocks
    that are never used again, the head of a chain goes first.
    """

    name: ClassVar[str] = "belady"
    reuse: ClassVar[Reuse] = "holes"
    needs: ClassVar[frozenset[str]] = frozenset({"future"})

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._cost = cost
        self._uses: Mapping[Key, Sequence[float]] | None = None
        self._next: dict[Block, float] = {}
        self._order: list[tuple[float, int, int, Block]] = []  # farthest first; stale entries are skipped

    def foresee(self, need: str, known: Mapping[Key, Sequence[float]]) -> None:
        """`future`: when each key will be used, in seconds, ascending. To be called before anything else."""
        if need == "future":
            self._uses = known

    def offer(self, block: Block, now: float) -> None:
        if block in self._next:
            raise ValueError(f"{block} is evictable already")
        self._next[block] = next_s = self._next_use(block, now)
        heapq.heappush(self._order, (-next_s, block.index, block.id, block))

    def touch(self, block: Block, now: float) -> None:
        self.forget(block)

    def forget(self, block: Block) -> None:
        del self._next[block]

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if len(self._next) - sum(block in self._next for block in excluded) < need:
            return None
        chosen: list[Block] = []
        kept: list[tuple[float, int, int, Block]] = []
        while len(chosen) < need:
            entry = heapq.heappop(self._order)
            block = entry[-1]
            if self._next.get(block) != -entry[0]:
                continue
            if block in excluded:
                kept.append(entry)
            else:
                del self._next[block]
                chosen.append(block)
        for entry in kept:
            heapq.heappush(self._order, entry)
        return chosen

    def observe(self, event: Event, now: float) -> None:
        pass

    def _next_use(self, block: Block, now: float) -> float:
        if self._uses is None:
            raise ConfigError(
                f"policy {self.name!r} was not told the future, which only a fixed schedule has; nothing was run",
                hint="run it with `agentcache results`, or choose an online policy",
            )
        uses = self._uses.get(block.key, ())
        position = bisect_left(uses, now)
        return uses[position] if position < len(uses) else NEVER_S

    def __len__(self) -> int:
        return len(self._next)

    def __contains__(self, block: object) -> bool:
        return block in self._next

    def check(self) -> None:
        filed = {entry[-1] for entry in self._order if self._next.get(entry[-1]) == -entry[0]}
        if filed != self._next.keys():
            raise CheckFailed(f"{self.name}: {len(self._next)} evictable blocks, {len(filed)} of them in the order")


class BeladyCompute(Belady):
    """Evicts the largest (next use - now) / dT: the farthest per second of rebuild. A heuristic near the optimum.

    The ratio changes with the clock, so it is computed at eviction, O(n): oracles are for comparison, not for use.
    """

    name: ClassVar[str] = "belady-compute"

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        candidates = [block for block in self._next if block not in excluded]
        if len(candidates) < need:
            return None

        def worth(block: Block) -> tuple[float, float, int]:
            """What is never used again is worth nothing; a tie goes to the cheaper one."""
            price = self._cost.block_seconds(block.index)
            return (price / max(self._next[block] - now, 1e-9), price, block.id)

        chosen = heapq.nsmallest(need, candidates, key=worth)
        for block in chosen:
            del self._next[block]
        if len(self._order) > 4 * len(self._next) + 64:
            self._order = [entry for entry in self._order if self._next.get(entry[-1]) == -entry[0]]
            heapq.heapify(self._order)
        return chosen


def uses_of(turns: Iterable[tuple[float, Sequence[Key]]]) -> dict[Key, list[float]]:
    """The times at which keys are used, from turns' starts and keys."""
    uses: dict[Key, list[float]] = {}
    for start_s, keys in sorted(turns, key=lambda turn: turn[0]):
        for key in keys:
            uses.setdefault(key, []).append(start_s)
    return uses
