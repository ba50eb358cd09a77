"""RR-Evict: idle contexts give up one block of their tails in turn (arXiv 2609.32278)."""

from collections.abc import Set
from typing import ClassVar

from agentcache.model import Block
from agentcache.policy.base import Reuse
from agentcache.policy.published.grouped import Grouped


class RrTail(Grouped):
    """Visits releases round robin, with a pointer that stays where it was, and takes the last block of each.

    One hit refreshes a whole path, so LRU empties one agent after the other; this evens the loss out, for a better tail
    of latencies and a worse mean.
    """

    name: ClassVar[str] = "rr-tail"
    reuse: ClassVar[Reuse] = "prefix"

    _after = 0  # the release that gave last

    def choose(self, need: int, excluded: Set[Block], now: float) -> list[Block]:
        order = sorted(self._groups)
        later = [release for release in order if release > self._after]
        rounds = later + order[: len(order) - len(later)]
        tails = {release: (b for b in self._groups[release] if b not in excluded) for release in rounds}
        chosen: list[Block] = []
        while len(chosen) < need:
            for release in list(tails):
                block = next(tails[release], None)
                if block is None:
                    del tails[release]
                    continue
                chosen.append(block)
                self._after = release
                if len(chosen) == need:
                    break
        return chosen
