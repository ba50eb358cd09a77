"""LRU that starts at the head: what reuse behind holes alone is worth, without a cost model."""

from typing import ClassVar

from agentcache.model import Block
from agentcache.policy.published.keyed import Keyed


class LruHoles(Keyed):
    """Least recently released turn first, and of a turn the head first: later blocks cost more to rebuild."""

    name: ClassVar[str] = "lru-holes"

    def key(self, block: Block) -> tuple[float, ...]:
        return (block.release, block.index)
