"""A tally: a number for each context, and at any time its sum over the owners of any block."""

from collections.abc import Iterable, Iterator

from agentcache.errors import CheckFailed
from agentcache.model.context import Context
from agentcache.model.owners import Owners


class Tally:
    """Whole numbers of contexts, 0 unless put, summed over owners; it is its maker's, who alone puts and asks.

    A change costs a step for each run of blocks from the first to the context's last, however many contexts share
    them. Whole numbers, because their sums do not depend on the order in which contexts came and went.
    """

    def __init__(self) -> None:
        self._of: dict[Context, int] = {}
        self._sums: dict[Owners, int] = {}

    def put(self, context: Context, number: int) -> None:
        seat = context.seat
        if seat is not None:
            self._join(seat)
        before = self._of.pop(context, 0)
        if number:
            self._of[context] = number
        if seat is not None and number != before:
            self.add(seat.path(), number - before)

    def _join(self, owners: Owners) -> None:
        """From now on the tree of these tells of its changes."""
        if owners and self not in owners.tallies:
            owners.tallies.append(self)
            for context, number in self._of.items():
                if context.seat is not None:
                    self.add(context.seat.path(), number)

    def of(self, context: Context) -> int:
        return self._of.get(context, 0)

    def sum(self, owners: Owners) -> int:
        self._join(owners)
        return self._sums.get(owners, 0)

    def among(self, owners: Owners) -> Iterator[Context]:
        """Those of the owners whose number is not 0; numbers must not be negative."""
        self._join(owners)
        rest = [owners] if owners in self._sums else []
        while rest:
            node = rest.pop()
            yield from [context for context in node.seated if context in self._of]
            rest += [after for after in node.after if after in self._sums]

    # For the tree

    def add(self, path: Iterable[Owners], more: int) -> None:
        """The sums of these have changed by so much."""
        sums = self._sums
        for node in path:
            if total := sums.get(node, 0) + more:
                sums[node] = total
            else:
                del sums[node]

    def split(self, upper: Owners, lower: Owners) -> None:
        """A new node stands for the upper part of what the lower one stood for."""
        if total := self._sums.get(lower):
            self._sums[upper] = total

    def forget(self, node: Owners) -> None:
        """A node is another's part now, with the same owners."""
        self._sums.pop(node, None)

    def check(self, nodes: Iterable[Owners]) -> None:
        """Recount for all nodes of the tree; raise `CheckFailed` with the sum that does not hold."""
        counted = {node: total for node in nodes if (total := sum(map(self.of, node)))}
        if counted != self._sums:
            raise CheckFailed(f"a tally has {len(self._sums)} sums over owners, {len(counted)} were counted otherwise")
