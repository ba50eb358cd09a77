"""Max-score: the chance of a reuse by class, and position only to break ties (arXiv 2506.02634)."""

import math
from collections.abc import Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.model import Block, BlocksRestood, Event, Standing
from agentcache.policy.published.grouped import Grouped

START_GAP_S = 60.0
LIFE_S = 600.0


class MaxScore(Grouped):
    """Evicts the lexicographically smallest (P(tau), -i): what is least likely to be used again, tail first.

    P(tau) = exp(-tau/m) (1 - exp(-life/m)) with m the mean reuse gap of the block's class, here its standing, learnt
    from reuses. With `eq9` 1, P is AsymCache's two-branch recency instead, as that paper's comparison has it: one
    monotone function for all classes, which makes the order LRU's.
    """

    name: ClassVar[str] = "max-score"

    def __init__(self, cost: CostModel, capacity_blocks: int, *, eq9: float = 0.0, life_s: float = LIFE_S) -> None:
        super().__init__(cost, capacity_blocks)
        if eq9 not in (0.0, 1.0) or life_s <= 0:
            raise ConfigError(
                f"policy {self.name!r}: eq9 is {eq9} and life_s {life_s}, expected 0 or 1 and a time above 0; "
                "nothing was started"
            )
        self._eq9 = bool(eq9)
        self._life_s = life_s
        self._gaps: dict[Standing, tuple[int, float]] = {}  # reuses, and the sum of their gaps in seconds

    def touch(self, block: Block, now: float) -> None:
        super().touch(block, now)
        count, total = self._gaps.get(block.standing, (0, 0.0))
        self._gaps[block.standing] = (count + 1, total + now - block.released_at)

    def choose(self, need: int, excluded: Set[Block], now: float) -> list[Block]:
        # The blocks of a release differ in class only where some are shared or left behind: scored one by one.
        scored = sorted((self._score(next(iter(group)), now), release) for release, group in self._groups.items())
        chosen: list[Block] = []
        for _, release in scored:
            free = [block for block in self._groups[release] if block not in excluded]
            chosen += free[: need - len(chosen)]
            if len(chosen) == need:
                break
        return chosen

    def _score(self, block: Block, now: float) -> float:
        idle_s = now - block.released_at
        if self._eq9:
            return -idle_s
        count, total = self._gaps.get(block.standing, (0, 0.0))
        mean_s = max(total / count if count else START_GAP_S, 1e-3)
        # In the log domain: after some minutes the probabilities themselves are all 0.
        return -idle_s / mean_s + math.log(-math.expm1(-self._life_s / mean_s))

    def observe(self, event: Event, now: float) -> None:
        match event:
            case BlocksRestood():
                pass  # a block's class is looked up when it is scored
