"""vLLM's order among what may come back; what is over goes first.

A job that has just ended has the newest blocks of all, and in vLLM's own order keeps them the longest. Where contexts
consist of blocks of several KV groups, a price for each block says little of what a hit needs; this says which contexts
have none.
"""

from collections.abc import Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import OVER, Block, BlocksRestood, Event
from agentcache.policy.base import Reuse
from agentcache.policy.published.lru import Lru


class LruLive:
    """Least recently used, first of what nobody has any more, then of the rest."""

    name: ClassVar[str] = "lru-live"
    reuse: ClassVar[Reuse] = "prefix"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._over, self._live = Lru(cost, capacity_blocks), Lru(cost, capacity_blocks)

    def offer(self, block: Block, now: float) -> None:
        if block in self:
            raise ValueError(f"{block} is evictable already")
        (self._over if block.standing in OVER else self._live).offer(block, now)

    def touch(self, block: Block, now: float) -> None:
        self.forget(block)

    def forget(self, block: Block) -> None:
        (self._over if block in self._over else self._live).forget(block)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        over = min(need, len(self._over) - sum(block in self._over for block in excluded))
        live = self._live.victims(need - over, excluded, now)
        return None if live is None else [*(self._over.victims(over, excluded, now) or ()), *live]

    def observe(self, event: Event, now: float) -> None:
        if isinstance(event, BlocksRestood):
            for block in event.blocks:
                if block in self:
                    self.forget(block)
                    self.offer(block, now)

    def __len__(self) -> int:
        return len(self._over) + len(self._live)

    def __contains__(self, block: object) -> bool:
        return block in self._over or block in self._live

    def check(self) -> None:
        self._over.check()
        self._live.check()
        for order, over in ((self._over, True), (self._live, False)):
            for block in order:
                if (block.standing in OVER) is not over:
                    raise CheckFailed(f"{self.name}: {block} is filed as over={over}")
