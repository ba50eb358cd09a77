"""The tree of chains: who owns each key, kept so that a turn costs the same however many share its beginning."""

from collections.abc import Iterator

from agentcache.errors import CheckFailed
from agentcache.model import Context, Key, Owners, Standing, Tally


class OwnersTree:
    """Seats contexts at the ends of their chains. The keys of a run with the same owners have one `Owners` among them.

    A chain costs its new keys and a step for each run on its way. The owners of a key become another object only as a
    chain that has the key, or had it, changes.
    """

    def __init__(self) -> None:
        self.at: dict[Key, Owners] = {}
        self.tallies: list[Tally] = []

    def deepest(self, keys: tuple[Key, ...]) -> tuple[int, Owners | None]:
        """How many blocks of a chain contexts have, and the owners of the last of those."""
        at, low, high = self.at, 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            owners = at.get(keys[middle])
            if owners is None or owners.left:
                high = middle
            else:
                low = middle + 1
        return low, at[keys[low - 1]] if low else None

    # Contexts come, change and go

    def move(self, context: Context, keys: tuple[Key, ...]) -> None:
        """Give a context another chain, of which no remnant holds a block; () takes it out.

        Keys that contradict what others have shown are not believed: the chain ends before them.
        """
        seat = context.seat
        known, node = self.deepest(keys)
        if (sound := self._sound(keys, known, node)) < len(keys):
            self.move(context, keys[:sound])
            return
        if seat is not None and node is seat and seat.count == 1:
            keep = known - seat.start
            self._drop(seat.keys[keep:])
            seat.keys = keys[seat.start :]
            self.at.update(dict.fromkeys(keys[known:], seat))
        else:
            self._reseat(context, self._place(keys, known, node) if keys else None)
        context.chain = keys

    def _sound(self, keys: tuple[Key, ...], known: int, node: Owners | None) -> int:
        """How many keys of a chain commit to all before them."""
        if node is not None and any(run.keys[0] != keys[run.start] for run in node.path()):
            return 0
        added = set[Key]()
        for index in range(known, len(keys)):
            if keys[index] in self.at or keys[index] in added:
                return index
            added.add(keys[index])
        return len(keys)

    def _place(self, keys: tuple[Key, ...], known: int, node: Owners | None) -> Owners:
        """The node at which a chain ends, made if need be."""
        if node is not None and known < node.end:
            node = self._split(node, known)
        if known < len(keys):
            parent, node = node, Owners(keys[known:], known, node, self.tallies)
            self.at.update(dict.fromkeys(node.keys, node))
            if parent is not None:
                parent.after[node] = None
        assert node is not None
        return node

    def _split(self, lower: Owners, end: int) -> Owners:
        """A new node takes the run up to `end`; the blocks behind keep theirs."""
        cut = end - lower.start
        upper = Owners(lower.keys[:cut], lower.start, lower.parent, self.tallies)
        upper.count, upper.standings = lower.count, lower.standings.copy()
        for tally in self.tallies:
            tally.split(upper, lower)
        if upper.parent is not None:
            del upper.parent.after[lower]
            upper.parent.after[upper] = None
        lower.keys, lower.start, lower.parent = lower.keys[cut:], end, upper
        upper.after[lower] = None
        self.at.update(dict.fromkeys(upper.keys, upper))
        return upper

    def _reseat(self, context: Context, seat: Owners | None) -> None:
        before, context.seat = context.seat, seat
        come = list(seat.path()) if seat is not None else []
        gone = list(before.path()) if before is not None else []
        both = set(come).intersection(gone)
        self._tell([node for node in come if node not in both], context, 1)
        self._tell([node for node in gone if node not in both], context, -1)
        if before is not None:
            del before.seated[context]
        if seat is not None:
            seat.seated[context] = None
        if before is not None:
            self._prune(before)

    def _tell(self, path: list[Owners], context: Context, more: int) -> None:
        for node in path:
            node.tell(context.standing, more)
        for tally in self.tallies:
            if number := tally.of(context):
                tally.add(path, more * number)

    def _prune(self, node: Owners) -> None:
        """Take out a node without owners; what follows a node with the same owners takes its run over."""
        if not node.count:
            self._drop(node.keys)
            if node.parent is None:
                return
            del node.parent.after[node]
            node = node.parent
        if node.seated or len(node.after) != 1:
            return
        (after,) = node.after
        after.keys, after.start, after.parent = node.keys + after.keys, node.start, node.parent
        if node.parent is not None:
            del node.parent.after[node]
            node.parent.after[after] = None
        self.at.update(dict.fromkeys(node.keys, after))
        for tally in self.tallies:
            tally.forget(node)

    def _drop(self, keys: tuple[Key, ...]) -> None:
        for key in keys:
            del self.at[key]

    def stand(self, context: Context, standing: Standing) -> None:
        """A context stands so now."""
        if context.seat is not None:
            for node in context.seat.path():
                node.tell(context.standing, -1)
                node.tell(standing, 1)
        context.standing = standing

    # Remnants

    def leave(self, remnant: Context) -> None:
        """The keys of its chain, which nobody has, are held by a remnant, each for itself."""
        remnant.seat = Owners((), 0, None, self.tallies)
        remnant.seat.left = True
        remnant.seat.seated[remnant] = None
        remnant.seat.tell(remnant.standing, 1)
        self.at.update(dict.fromkeys(remnant.chain, remnant.seat))

    def end(self, remnant: Context) -> None:
        """A remnant holds nothing any more."""
        assert remnant.seat is not None
        self._tell([remnant.seat], remnant, -1)
        remnant.seat.seated.clear()
        remnant.seat = None

    # The books

    def nodes(self) -> Iterator[Owners]:
        return iter(dict.fromkeys(self.at.values()))

    def check(self) -> None:
        """Recount; raise `CheckFailed` with what does not hold."""
        runs: dict[Owners, list[Key]] = {}
        for key, node in self.at.items():
            runs.setdefault(node, []).append(key)
        for node, keys in runs.items():
            owners = list(node)
            if not node.left:
                if set(node.keys) != set(keys) or any(
                    context.chain[node.start : node.end] != node.keys for context in owners
                ):
                    raise CheckFailed(f"a node of {len(node.keys)} keys is not the run of its {len(owners)} owners")
                if not node.seated and len(node.after) == 1:
                    raise CheckFailed(f"two runs behind each other have the same {len(owners)} owners")
            if node.parent is not None and (node not in node.parent.after or node.parent.end != node.start):
                raise CheckFailed(f"the run from {node.start} does not follow the one before it")
            if any(child.parent is not node for child in node.after) or any(c.seat is not node for c in node.seated):
                raise CheckFailed(f"what follows a run of {len(node.keys)} keys does not know it")
            standings = [sum(owner.standing is standing for owner in owners) for standing in Standing]
            if node.count != len(owners) or sorted(node.standings) != sorted(standings):
                raise CheckFailed(f"a node counts {node.count} owners that stand as {node.standings}, of {len(owners)}")
        for tally in self.tallies:
            tally.check(runs)
