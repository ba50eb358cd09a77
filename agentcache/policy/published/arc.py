"""ARC: recency and frequency share the pool by what their ghosts say (Megiddo and Modha, FAST 2003)."""

from collections import OrderedDict
from collections.abc import Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Block, Event, Key, TurnArrived
from agentcache.policy.base import Reuse


class Arc:
    """T1 holds blocks used once, T2 those used again; B1 and B2 remember the keys that each of them lost.

    A key that comes back from B1 enlarges T1's share of the pool, one from B2 shrinks it. Prompts are known at their
    arrival, so ghosts are hit there, deepest first, once a turn. T1 and T2 count referenced blocks too, which cannot be
    evicted. A turn gives its tail back first: it goes first, and what remains of a chain is a prefix.
    """

    name: ClassVar[str] = "arc"
    reuse: ClassVar[Reuse] = "prefix"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._target = 0.0  # blocks for T1
        self._once: OrderedDict[Block, Key] = OrderedDict()  # T1, least recent first
        self._again: OrderedDict[Block, Key] = OrderedDict()  # T2
        self._once_ghosts: OrderedDict[Key, None] = OrderedDict()  # B1
        self._again_ghosts: OrderedDict[Key, None] = OrderedDict()  # B2
        self._evictable: set[Block] = set()
        self._returning: set[Key] = set()  # hit as ghosts, computed again now
        self._from_again = False  # the turn that came last hit a ghost of T2

    def offer(self, block: Block, now: float) -> None:
        if block in self._evictable:
            raise ValueError(f"{block} is evictable already")
        self._evictable.add(block)
        for home in (self._once, self._again):
            if home.get(block) == block.key and block in home:
                home.move_to_end(block)
                return
            home.pop(block, None)  # the memory held something else before
        if block.key in self._returning:
            self._returning.discard(block.key)
            self._again[block] = block.key
        else:
            self._once[block] = block.key
        self._trim()

    def touch(self, block: Block, now: float) -> None:
        self._evictable.remove(block)
        self._once.pop(block, None)
        self._again[block] = block.key
        self._again.move_to_end(block)

    def forget(self, block: Block) -> None:
        self._evictable.remove(block)
        self._once.pop(block, None)
        self._again.pop(block, None)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if len(self._evictable) - sum(block in self._evictable for block in excluded) < need:
            return None
        once = (block for block in list(self._once) if block in self._evictable and block not in excluded)
        again = (block for block in list(self._again) if block in self._evictable and block not in excluded)
        chosen: list[Block] = []
        while len(chosen) < need:
            size = len(self._once)
            first = size > 0 and (size > self._target or (self._from_again and size == self._target))
            block = next(once if first else again, None)
            if block is None:
                block = next(again if first else once)
            self._drop(block)
            chosen.append(block)
        return chosen

    def _drop(self, block: Block) -> None:
        self._evictable.remove(block)
        if block in self._once:
            whole = len(self._once) >= self._capacity  # T1 fills the pool alone: its victim leaves no ghost
            key = self._once.pop(block)
            if not whole:
                self._once_ghosts[key] = None
        else:
            self._again_ghosts[self._again.pop(block)] = None
        self._trim()

    def _trim(self) -> None:
        while self._once_ghosts and len(self._once) + len(self._once_ghosts) > self._capacity:
            self._once_ghosts.popitem(last=False)
        used_once = len(self._once) + len(self._once_ghosts)
        while self._again_ghosts and used_once + len(self._again) + len(self._again_ghosts) > 2 * self._capacity:
            self._again_ghosts.popitem(last=False)

    def observe(self, event: Event, now: float) -> None:
        if not isinstance(event, TurnArrived):
            return
        self._from_again = False
        for key in reversed(event.keys):
            once, again = len(self._once_ghosts), len(self._again_ghosts)
            if key in self._once_ghosts:
                self._target = min(self._capacity, self._target + max(1.0, again / once))
                del self._once_ghosts[key]
            elif key in self._again_ghosts:
                self._target = max(0.0, self._target - max(1.0, once / again))
                del self._again_ghosts[key]
                self._from_again = True
            else:
                continue
            self._returning.add(key)
        if len(self._returning) > 2 * self._capacity:
            self._returning.clear()  # of turns that were never computed

    def __len__(self) -> int:
        return len(self._evictable)

    def __contains__(self, block: object) -> bool:
        return block in self._evictable

    def check(self) -> None:
        if lost := self._evictable - self._once.keys() - self._again.keys():
            raise CheckFailed(f"arc: {len(lost)} evictable blocks are in neither list")
        if both := self._once.keys() & self._again.keys():
            raise CheckFailed(f"arc: {len(both)} blocks are in both lists")
        if len(self._once) + len(self._once_ghosts) > self._capacity and self._once_ghosts:
            raise CheckFailed(f"arc: {len(self._once)} + {len(self._once_ghosts)} of T1 and B1 > {self._capacity}")
        if not 0 <= self._target <= self._capacity:
            raise CheckFailed(f"arc: the target is {self._target} of {self._capacity} blocks")
