"""What contexts take of a pool: blocks for each of their keys, for each of them, and what their turns leave behind.

A key stands for a stretch of tokens, as long as one block hash. Where all layers attend to all tokens it is one block.
Where several groups of layers have blocks of one pool, each key takes one of every group that keeps all tokens, and a
context some of those that keep a window or a state, however long it is. What a window has passed by is of no use to
anybody; an order that does not know so has it among its newest.
"""

from dataclasses import dataclass
from math import ceil, inf, isfinite

from agentcache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Footing:
    """Pool blocks for each distinct key, beside them for each context, and for each key that its last or present turn
    computed (`left_blocks`: dead, but newer than what others still want), of which at most `left_keys` count.
    `step_blocks` are taken once, whoever runs: those that a step computes and nobody wants after it.

    Raises `ConfigError` for a number below 0, and if neither keys nor contexts take anything.
    """

    key_blocks: float = 1
    context_blocks: float = 0
    left_blocks: float = 0
    left_keys: float = inf
    step_blocks: float = 0

    def __post_init__(self) -> None:
        blocks = self.key_blocks, self.context_blocks, self.left_blocks, self.step_blocks
        fine = all(isfinite(number) and number >= 0 for number in blocks) and self.left_keys >= 0
        if not (fine and self.key_blocks + self.context_blocks):
            raise ConfigError(
                f"{self}: numbers of blocks >= 0 were expected, and a context that takes some; nothing was started",
                hint="one block a key is what a pool with one group of full attention takes: Footing()",
            )

    def blocks(self, keys: int, contexts: int, left_keys: int) -> int:
        """What so many distinct keys take that are of so many contexts, whose turns left something of so many."""
        return ceil(self.key_blocks * keys + self.context_blocks * contexts + self.left_blocks * left_keys)

    def room(self, capacity_blocks: int, headroom: float) -> float:
        """What contexts may take together of a pool of which a share is to be left free."""
        return (capacity_blocks - self.step_blocks) * (1 - headroom)


ONE_GROUP = Footing()
"""A pool of full-attention blocks: each key takes one."""
