"""The policy interface: five methods, because a policy only orders the evictable blocks and learns from events."""

from collections.abc import Set
from typing import ClassVar, Literal, Protocol, runtime_checkable

from agentcache.model import Block, Event

Reuse = Literal["prefix", "holes"]
"""What the host may reuse for the policy: the unbroken prefix alone, or also blocks that survive behind a hole."""


@runtime_checkable
class Policy(Protocol):
    """An order of eviction over the evictable blocks.

    Times are seconds on one monotonic clock, never decreasing from call to call. A block is *offered* when its last
    reference goes (a turn's blocks come tail first, as vLLM frees them), *touched* when it is referenced again,
    and *forgotten* when the host takes it away by itself. Calls that break this protocol are bugs of the host and
    raise `KeyError` or `ValueError`.
    """

    name: ClassVar[str]
    reuse: ClassVar[Reuse]
    needs: ClassVar[frozenset[str]]
    """What a trace must provide for the policy to be run on it, such as `future`; empty for an online policy."""

    def offer(self, block: Block, now: float) -> None:
        """The block became evictable."""

    def touch(self, block: Block, now: float) -> None:
        """The block is used again and no longer evictable."""

    def forget(self, block: Block) -> None:
        """The block is no longer evictable and was not used: nothing is learnt from it."""

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        """Take out exactly `need` blocks, cheapest loss first, none of them in `excluded` (a small set).

        Returns None, and changes nothing, when there are not that many.
        """

    def observe(self, event: Event, now: float) -> None:
        """Learn from an event; most policies ignore most of them."""

    def __len__(self) -> int:
        """Evictable blocks now."""

    def __contains__(self, block: object) -> bool:
        """Whether the block is evictable now."""

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
