"""T-LRU: what a latency budget can recompute anyway is free to go (arXiv 2510.15152)."""

from typing import ClassVar

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.model import Block
from agentcache.policy.base import Reuse
from agentcache.policy.published.keyed import Keyed


class TLru(Keyed):
    """Evicts safe blocks first, in LRU order, then the others in LRU order.

    Block i of a conversation of L tokens is safe if what stands from it on fits the budget of the next turn:
    i B >= L + Q - `budget_tokens`, with Q = `next_tokens` the expected new prompt. L is the highest end that a
    release of the conversation has shown.
    """

    name: ClassVar[str] = "t-lru"
    reuse: ClassVar[Reuse] = "prefix"

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        *,
        budget_tokens: float = 4096.0,
        next_tokens: float = 1024.0,
    ) -> None:
        super().__init__(cost, capacity_blocks)
        if budget_tokens < 0 or next_tokens < 0:
            raise ConfigError(
                f"policy {self.name!r}: budget_tokens is {budget_tokens} and next_tokens {next_tokens}, expected "
                "numbers >= 0; nothing was started"
            )
        self._size_tokens = cost.block_size
        self._slack_tokens = budget_tokens - next_tokens
        self._release = -1
        self._end_tokens = 0

    def offer(self, block: Block, now: float) -> None:
        if block.release != self._release:  # a release comes tail first
            self._release = block.release
            self._end_tokens = (block.index + 1) * self._size_tokens
        super().offer(block, now)

    def key(self, block: Block) -> tuple[float, ...]:
        known = self._keys.get(block)
        if known is not None:  # the end of its conversation was seen when it was offered
            return tuple(known[:-2])
        safe = block.index * self._size_tokens >= max(self._end_tokens - self._slack_tokens, 0.0)
        return (0.0 if safe else 1.0, block.release, -block.index)
