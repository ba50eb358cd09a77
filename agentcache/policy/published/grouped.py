"""What policies share that order whole releases: the blocks that one turn gave back, of one age, tail to head."""

from collections.abc import Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Block, Event
from agentcache.policy.base import Reuse

Group = dict[Block, None]
"""Blocks of one release in the order in which they were offered: the tail first, so the head is the last."""


class Grouped:
    """Files blocks by release; a subclass says which ones leave, by `choose`."""

    name: ClassVar[str]
    reuse: ClassVar[Reuse] = "holes"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._cost = cost
        self._groups: dict[int, Group] = {}  # by release, oldest first
        self._size = 0

    def choose(self, need: int, excluded: Set[Block], now: float) -> list[Block]:
        """`need` evictable blocks outside of `excluded`, of which there are enough; the base takes them out."""
        raise NotImplementedError

    def offer(self, block: Block, now: float) -> None:
        group = self._groups.setdefault(block.release, {})
        if block in group:
            raise ValueError(f"{block} is evictable already")
        group[block] = None
        self._size += 1

    def touch(self, block: Block, now: float) -> None:
        self.forget(block)

    def forget(self, block: Block) -> None:
        group = self._groups[block.release]
        del group[block]
        self._size -= 1
        if not group:
            del self._groups[block.release]

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if self._size - sum(block in self for block in excluded) < need:
            return None
        chosen = self.choose(need, excluded, now)
        for block in chosen:
            self.forget(block)
        return chosen

    def observe(self, event: Event, now: float) -> None:
        pass

    def __len__(self) -> int:
        return self._size

    def __contains__(self, block: object) -> bool:
        return isinstance(block, Block) and block in self._groups.get(block.release, ())

    def check(self) -> None:
        filed = sum(len(group) for group in self._groups.values())
        if filed != self._size or not all(self._groups.values()):
            raise CheckFailed(f"{self.name}: groups hold {filed} blocks, {self._size} are evictable")
