"""Owners: the contexts that have a block, as a node of the tree that chains with shared beginnings make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import TYPE_CHECKING

from agentcache.model.standing import LIVELIEST, RANK, Standing

if TYPE_CHECKING:
    from agentcache.model.block import Key
    from agentcache.model.context import Context
    from agentcache.model.tally import Tally


class Owners(Set["Context"]):
    """The contexts whose chains go through one run of blocks: those that end there, and those that go on behind it.

    A chained key commits to all before it, so chains form a tree, and a node stands for a longest run of blocks that
    the same contexts have. It is known by identity and changes as contexts come and go; `parent` are the owners of the
    block before, who are more. Length and standing are kept; to walk over the contexts takes as long as they are many.
    `keys` are those of the run, `start` is the index of the first. What a remnant holds is in no tree, and `left`.
    """

    __slots__ = ("after", "count", "keys", "left", "parent", "seated", "standings", "start", "tallies")

    def __init__(self, keys: tuple[Key, ...], start: int, parent: Owners | None, tallies: list[Tally]) -> None:
        self.keys = keys
        self.start = start
        self.parent = parent
        self.tallies = tallies  # of all owners of the tree
        self.after: dict[Owners, None] = {}
        self.seated: dict[Context, None] = {}  # contexts that end with this run, the latest last
        self.count = 0
        self.standings = [0] * len(LIVELIEST)
        self.left = False

    @property
    def end(self) -> int:
        return self.start + len(self.keys)

    @property
    def standing(self) -> Standing:
        """How a block stands that these contexts own; unknown if nobody does."""
        for standing, count in zip(LIVELIEST, self.standings, strict=True):
            if count:
                return standing
        return Standing.UNKNOWN

    def path(self) -> Iterator[Owners]:
        """These owners, then those of the run before, up to the first of the chain."""
        at: Owners | None = self
        while at is not None:
            yield at
            at = at.parent

    def tell(self, standing: Standing, more: int) -> None:
        """So many more contexts of this standing are among them."""
        self.count += more
        self.standings[RANK[standing]] += more

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Context]:
        rest = [self]
        while rest:
            node = rest.pop()
            yield from node.seated
            rest += node.after

    def __contains__(self, context: object) -> bool:
        seat: Owners | None = getattr(context, "seat", None)
        return seat is not None and any(node is self for node in seat.path())

    __hash__ = object.__hash__  # the owners of other blocks are others, or they would be the same node

    @classmethod
    def _from_iterable(cls, contexts: Iterable[Context]) -> Set[Context]:
        return frozenset(contexts)


NOBODY = Owners((), 0, None, [])
