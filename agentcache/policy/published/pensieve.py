"""Pensieve's retention value: what a block costs to rebuild over how long it has been idle (arXiv 2312.05516)."""

import heapq
from collections.abc import Iterator, Set
from typing import ClassVar

from agentcache.model import Block
from agentcache.policy.published.grouped import Group, Grouped


class Pensieve(Grouped):
    """Evicts the smallest dT(i)/tau, a context's head first. No parameters.

    The quotients of two releases cross as time passes, so no order can be kept: at each eviction the heads are scored
    anew, O(releases), and of a release only the head competes, since the price rises towards the tail.
    """

    name: ClassVar[str] = "pensieve"

    def choose(self, need: int, excluded: Set[Block], now: float) -> list[Block]:
        def entry(release: int, heads: Iterator[Block]) -> tuple[float, int, Iterator[Block], Block] | None:
            block = next(heads, None)
            if block is None:
                return None
            idle_s = max(now - block.released_at, 1e-9)
            return (self._cost.block_seconds(block.index) / idle_s, release, heads, block)

        found = (entry(release, _heads(group, excluded)) for release, group in self._groups.items())
        heap = [each for each in found if each]
        heapq.heapify(heap)
        chosen: list[Block] = []
        while len(chosen) < need:
            _, release, heads, block = heap[0]
            chosen.append(block)
            if following := entry(release, heads):
                heapq.heapreplace(heap, following)
            else:
                heapq.heappop(heap)
        return chosen


def _heads(group: Group, excluded: Set[Block]) -> Iterator[Block]:
    return (block for block in reversed(group) if block not in excluded)
