"""PartialNode RandomCompute: sampled runs of the prefix tree lose their heads (arXiv 2609.28870)."""

import random
from collections.abc import Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.model import Block
from agentcache.policy.published.grouped import Grouped

SAMPLED = 32
CHUNK = 64


class PartialNode(Grouped):
    """A round draws 32 nodes and takes up to 64 blocks from the start of the one with the least dT / idle time.

    A node is a run of blocks that were given back together; it is scored by the block in the middle of what would
    go. The draw is seeded: equal calls have equal victims.
    """

    name: ClassVar[str] = "partial-node"

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        super().__init__(cost, capacity_blocks)
        self._draw = random.Random(0)

    def choose(self, need: int, excluded: Set[Block], now: float) -> list[Block]:
        nodes = {}
        for release, group in self._groups.items():
            if heads := [block for block in reversed(group) if block not in excluded]:
                nodes[release] = heads
        chosen: list[Block] = []
        while len(chosen) < need:
            drawn = list(nodes) if len(nodes) <= SAMPLED else self._draw.sample(list(nodes), SAMPLED)
            release = min(drawn, key=lambda name: (self._score(nodes[name], now), name))
            count = min(CHUNK, need - len(chosen))
            chosen += nodes[release][:count]
            del nodes[release][:count]
            if not nodes[release]:
                del nodes[release]
        return chosen

    def _score(self, heads: list[Block], now: float) -> float:
        middle = heads[0].index + CHUNK // 2
        return self._cost.block_seconds(middle) / max(now - heads[0].released_at, 1e-9)
