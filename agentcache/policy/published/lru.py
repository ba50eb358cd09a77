"""vLLM's own order: blocks leave in the order in which they became evictable, a context's tail before its head."""

from collections import OrderedDict
from collections.abc import Iterator, Set
from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Block, Event
from agentcache.policy.base import Reuse


class Lru:
    """Least recently used, exactly as vLLM's free queue: first offered, first out.

    vLLM offers a finished turn's blocks tail first, so a context shrinks from its end and what is left of it is a
    prefix: the only thing that stock vLLM can reuse.
    """

    name: ClassVar[str] = "lru"
    reuse: ClassVar[Reuse] = "prefix"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._order: OrderedDict[Block, None] = OrderedDict()
        self._late = False  # a block was offered after younger ones: a lease on it ran out

    def offer(self, block: Block, now: float) -> None:
        if block in self._order:
            raise ValueError(f"{block} is evictable already")
        self._late = self._late or (bool(self._order) and block.release < next(reversed(self._order)).release)
        self._order[block] = None

    def touch(self, block: Block, now: float) -> None:
        del self._order[block]

    def forget(self, block: Block) -> None:
        del self._order[block]

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if self._late:
            self._order = OrderedDict.fromkeys(sorted(self._order, key=lambda block: block.release))
            self._late = False
        chosen: list[Block] = []
        for block in self._order:
            if len(chosen) >= need:
                break
            if block not in excluded:
                chosen.append(block)
        if len(chosen) < need:
            return None
        for block in chosen:
            del self._order[block]
        return chosen

    def observe(self, event: Event, now: float) -> None:
        pass

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, block: object) -> bool:
        return block in self._order

    def __iter__(self) -> Iterator[Block]:
        return iter(self._order)

    def check(self) -> None:
        releases = [block.release for block in self._order]
        if not self._late and releases != sorted(releases):
            raise CheckFailed(f"lru: blocks are not in the order of their release: {releases[:20]}")
