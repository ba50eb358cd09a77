"""What policies share whose order is one fixed key a block: a balanced order, victims from its low end."""

from collections.abc import Set
from typing import Any, ClassVar

from sortedcontainers import SortedList

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Block, Event
from agentcache.policy.base import Reuse


class Keyed:
    """Evicts the block with the smallest `key`, which must not change while the block is evictable. O(log n)."""

    name: ClassVar[str]
    reuse: ClassVar[Reuse] = "holes"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._order: Any = SortedList()
        self._keys: dict[Block, tuple[Any, ...]] = {}

    def key(self, block: Block) -> tuple[float, ...]:
        """The smaller, the sooner evicted."""
        raise NotImplementedError

    def offer(self, block: Block, now: float) -> None:
        if block in self._keys:
            raise ValueError(f"{block} is evictable already")
        # The id makes ties deterministic and keeps blocks themselves out of comparisons.
        entry = (*self.key(block), block.id, block)
        self._keys[block] = entry
        self._order.add(entry)

    def touch(self, block: Block, now: float) -> None:
        self.forget(block)

    def forget(self, block: Block) -> None:
        self._order.remove(self._keys.pop(block))

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        chosen: list[Block] = []
        for entry in self._order:
            if len(chosen) >= need:
                break
            if entry[-1] not in excluded:
                chosen.append(entry[-1])
        if len(chosen) < need:
            return None
        for block in chosen:
            self.forget(block)
        return chosen

    def observe(self, event: Event, now: float) -> None:
        pass

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: object) -> bool:
        return block in self._keys

    def check(self) -> None:
        if len(self._order) != len(self._keys):
            raise CheckFailed(f"{self.name}: {len(self._order)} ordered != {len(self._keys)} keyed")
        for block, entry in self._keys.items():
            if entry[:-2] != self.key(block):
                raise CheckFailed(f"{self.name}: {block} is filed under {entry[:-2]}, its key is {self.key(block)}")
