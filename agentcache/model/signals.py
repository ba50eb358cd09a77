"""What the residency alone tells its policy, between the events of the host."""

from dataclasses import dataclass

from agentcache.model.block import Block
from agentcache.model.context import Context


@dataclass(frozen=True, slots=True)
class BlocksRestood:
    """Evictable blocks whose `standing` or `owners` have just changed on the blocks themselves; their age has not."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class ContextChanged:
    """A context has become active, idle or ended, or is forgotten (`gone`)."""

    context: Context
    gone: bool = False
