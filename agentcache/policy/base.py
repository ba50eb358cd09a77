"""The policy interface: five methods, because a policy only orders the evictable blocks and learns from events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from agentcache.model import Block, Context, Event

if TYPE_CHECKING:
    from agentcache.cost import CostModel
    from agentcache.policy.survival import Survival

Reuse = Literal["prefix", "holes"]
"""What the host may reuse for the policy: the unbroken prefix alone, or also blocks that survive behind a hole."""


@runtime_checkable
class Policy(Protocol):
    """An order of eviction over the evictable blocks.

    Several instances may order blocks of one host, also the same ones: what an instance knows of a block it keeps by
    the block's identity, on its own side, and a block's fields are the residency's to write.
    Times are seconds on one monotonic clock, never decreasing from call to call. A block is *offered* when its last
    reference goes (a turn's blocks come tail first, as vLLM frees them), *touched* when it is referenced again,
    and *forgotten* when the host takes it away by itself. Calls that break this protocol are bugs of the host and
    raise `KeyError` or `ValueError`.
    """

    @property
    def name(self) -> str:
        """How a spec names the policy, and what is behind it."""

    @property
    def reuse(self) -> Reuse:
        """What its order of eviction is made for."""

    @property
    def needs(self) -> frozenset[str]:
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


@runtime_checkable
class FollowsSurvival(Protocol):
    """A policy that orders by when contexts return: its host gives it the estimates that admission uses too."""

    def follow(self, survival: Survival) -> None:
        """Use these estimates from now on."""


@runtime_checkable
class FollowsPrices(Protocol):
    """A policy that files blocks by their price: its host tells it when measured prices have moved."""

    def reprice(self, cost: CostModel) -> None:
        """Use these prices from now on, for what is evictable too."""


@runtime_checkable
class Foresees(Protocol):
    """A policy that `needs` to know what only a recorded trace tells."""

    def foresee(self, need: str, known: Mapping[Any, Sequence[Any]]) -> None:
        """What one of its needs asks for, before anything else; other needs are not its own.

        `future`: when each key will be used, in seconds, ascending. `pauses`: by context id, the seconds from the end
        of its k-th turn to its next one, None where none follows.
        """


@runtime_checkable
class Retains(Protocol):
    """A policy that keeps contexts for a time, and says which: the order `retained` of admission asks."""

    def retains(self, context: Context) -> bool:
        """Whether the context is kept now."""

    def retained_version(self) -> int:
        """Another number whenever an answer may be another one."""


@runtime_checkable
class Bulk(Protocol):
    """A policy that takes the blocks of a turn at once: long contexts come and go by thousands of blocks."""

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        """Like `offer` of each, in order; all were released together."""

    def touch_all(self, blocks: Sequence[Block], now: float) -> None:
        """Like `touch` of each, in order."""


def offer_all(policy: Policy) -> Callable[[Sequence[Block], float], None]:
    """How to offer many blocks to a policy."""
    return policy.offer_all if isinstance(policy, Bulk) else _each(policy.offer)


def touch_all(policy: Policy) -> Callable[[Sequence[Block], float], None]:
    """How to tell a policy that many blocks are used again."""
    return policy.touch_all if isinstance(policy, Bulk) else _each(policy.touch)


def _each(one: Callable[[Block, float], None]) -> Callable[[Iterable[Block], float], None]:
    def all_of(blocks: Iterable[Block], now: float) -> None:
        for block in blocks:
            one(block, now)

    return all_of
