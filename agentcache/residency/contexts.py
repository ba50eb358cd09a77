"""The book of contexts: which chains of blocks belong to which job, as the stream of turns has shown them."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping

from agentcache.errors import CheckFailed
from agentcache.model import Context, Key, Standing, TurnArrived, shared

# Several contexts may share a block: it stands as well as the liveliest of them.
_LIVELIEST = (Standing.TOOL, Standing.END_TURN, Standing.UNKNOWN, Standing.SUPERSEDED, Standing.ENDED)


Owners = frozenset[Context]
NOBODY: Owners = frozenset()


def liveliest(owners: Owners) -> Standing:
    """How a block stands that these contexts own; unknown if nobody does."""
    return min((owner.standing for owner in owners), key=_LIVELIEST.index, default=Standing.UNKNOWN)


class ContextBook:
    """Contexts by id, the jobs they belong to, and who owns each key.

    What a context leaves behind in memory, because its turn rewrote history or because it is closed, belongs to a
    *remnant*: a context of no job that holds those blocks alone, until they are evicted or somebody takes them up.

    Remembers at most `max_contexts` contexts and `max_keys` keys of blocks, unless more are in turns now.
    """

    def __init__(self, max_contexts: int, max_keys: int) -> None:
        self._max_contexts = max_contexts
        self._max_keys = max_keys
        self._contexts: OrderedDict[str, Context] = OrderedDict()  # least recently active first
        self._jobs: dict[str, dict[str, Context]] = {}
        self._owners: dict[Key, Owners] = {}  # the keys of a run with the same owners share one set
        self._remnants: dict[Context, int] = {}  # and how many blocks of it are left in memory
        self._names = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[Context]:
        return iter(self._contexts.values())

    def get(self, context_id: str) -> Context | None:
        return self._contexts.get(context_id)

    def of_job(self, job: str) -> list[Context]:
        return list(self._jobs.get(job, {}).values())

    def owners(self, key: Key) -> Owners:
        return self._owners.get(key, NOBODY)

    @property
    def owned(self) -> Mapping[Key, Owners]:
        """The owners of every key that has some."""
        return self._owners

    def resolve(self, turn: TurnArrived) -> Context:
        """Find the context that a turn extends, by its ids where it has any, else by lineage; or open a new one."""
        context: Context | None = None
        if turn.context is not None:
            context = self._contexts.get(turn.context)
        elif turn.job is not None:
            context = self._nearest(self.of_job(turn.job), turn.keys)
        else:
            context = self._by_lineage(turn.keys)
        if context is None:
            context = self._open(turn)
        self._contexts.move_to_end(context.id)
        return context

    def _nearest(self, contexts: list[Context], keys: tuple[Key, ...]) -> Context | None:
        """Of these, the idle context that the turn continues: it has most of its chain in common.

        A turn that continues none opens a context of its own: neither a sub-agent nor another conversation with the
        same system prompt may take an idle one's place.
        """

        def common(context: Context) -> tuple[int, float]:
            blocks = shared(context.chain, keys)
            return blocks, blocks / max(len(context.chain), 1)

        idle = [context for context in contexts if not context.turns]
        best = max(idle, key=common, default=None)
        return best if best and (not best.chain or common(best)[1] >= 0.5) else None

    def _by_lineage(self, keys: tuple[Key, ...]) -> Context | None:
        """Of the owners of the deepest known block, the one that the turn continues; anonymous like the turn."""
        for key in reversed(keys):
            owners = self._owners.get(key, NOBODY)
            if real := [context for context in owners if context not in self._remnants]:
                anonymous = [context for context in real if context.id.startswith(_ANONYMOUS)]
                return self._nearest(sorted(anonymous, key=lambda context: (-context.idle_since, context.id)), keys)
        return None

    def _open(self, turn: TurnArrived) -> Context:
        self._names += 1
        name = turn.context or f"{_ANONYMOUS}{self._names}"
        job = turn.job or name
        if turn.job is not None and turn.context is None:
            name = f"{job}#{self._names}"
        context = Context(name, job)
        self._contexts[name] = context
        self._jobs.setdefault(job, {})[name] = context
        return context

    def rewrite(self, context: Context, keys: tuple[Key, ...]) -> tuple[tuple[Key, ...], list[Context]]:
        """Give a context its new chain; returns what of the old one it left behind, and the remnants it took up."""
        keep = shared(context.chain, keys)
        dropped, added = context.chain[keep:], keys[keep:]
        self._regroup(dropped, lambda owners: owners - {context})
        revived = [owner for owners in self._regroup(added, self._joined(context)) for owner in owners - {context}]
        revived = [owner for owner in revived if owner in self._remnants]
        for remnant in revived:
            alone = frozenset({remnant})
            self._left(remnant, sum(self._owners.get(key) == alone for key in remnant.chain))
        context.chain = keys
        return dropped, revived

    def _joined(self, context: Context) -> Callable[[Owners], Owners]:
        return lambda owners: frozenset(owner for owner in owners if owner not in self._remnants) | {context}

    def leave(self, keys: Iterable[Key], standing: Standing, idle_since: float) -> Context | None:
        """These blocks are in memory; those of them that nobody owns now belong to the remnant that is returned."""
        chain = tuple(key for key in keys if key not in self._owners)
        if not chain:
            return None
        self._names += 1
        remnant = Context(f"{_ANONYMOUS}left{self._names}", "", chain, standing, idle_since)
        self._owners.update(dict.fromkeys(chain, frozenset({remnant})))
        self._remnants[remnant] = len(chain)
        return remnant

    def forget_key(self, key: Key) -> Context | None:
        """The block of a key is gone from memory; returns the remnant of which it was the last one."""
        if not self._remnants or len(owners := self._owners.get(key, NOBODY)) != 1:
            return None
        (owner,) = owners
        if owner not in self._remnants:
            return None
        del self._owners[key]
        return owner if self._left(owner, self._remnants[owner] - 1) else None

    def _left(self, remnant: Context, blocks: int) -> bool:
        """A remnant has so many blocks left; True if that was its end."""
        self._remnants[remnant] = blocks
        if not blocks:
            del self._remnants[remnant]
        return not blocks

    def close(self, context: Context) -> None:
        """Forget a context."""
        self._regroup(context.chain, lambda owners: owners - {context})
        del self._contexts[context.id]
        family = self._jobs[context.job]
        del family[context.id]
        if not family:
            del self._jobs[context.job]

    def excess(self) -> Context | None:
        """The next context to forget: the least recently active idle one, while there are too many contexts or keys.

        If turns that never finish fill the book, the oldest of those.
        """
        crowded = len(self._contexts) > self._max_contexts
        if not crowded and len(self._owners) <= self._max_keys:
            return None
        idle = next((context for context in self._contexts.values() if not context.turns), None)
        return next(iter(self._contexts.values())) if crowded and not idle else idle

    def _regroup(self, keys: Iterable[Key], change: Callable[[Owners], Owners]) -> Iterable[Owners]:
        """Change the owners of keys; returns what sets of owners were changed."""
        # Neighbours mostly have the same owners: the new set is made once for all of them.
        made: dict[Owners, Owners] = {}
        owners = self._owners
        for key in keys:
            old = owners.get(key, NOBODY)
            new = made.get(old)
            if new is None:
                new = made[old] = change(old)
            if new:
                owners[key] = new
            else:
                owners.pop(key, None)
        return made.keys()

    def check(self) -> None:
        counted: dict[Key, set[Context]] = {}
        for context in self._contexts.values():
            if self._jobs.get(context.job, {}).get(context.id) is not context:
                raise CheckFailed(f"context {context.id} is not among the contexts of its job {context.job}")
            for key in context.chain:
                counted.setdefault(key, set()).add(context)
        for remnant, blocks in self._remnants.items():
            alone = frozenset({remnant})
            kept = [key for key in remnant.chain if self._owners.get(key) == alone]
            if len(kept) != blocks or not kept:
                raise CheckFailed(f"remnant {remnant.id} has {blocks} blocks left, the book knows of {len(kept)}")
            counted.update((key, {remnant}) for key in kept)
        if counted != self._owners:
            wrong = {key for key in counted.keys() | self._owners.keys() if counted.get(key) != self._owners.get(key)}
            raise CheckFailed(f"owners of {len(wrong)} keys do not match the chains: {list(wrong)[:5]}")
        members = sum(len(family) for family in self._jobs.values())
        if members != len(self._contexts):
            raise CheckFailed(f"jobs hold {members} contexts, the book {len(self._contexts)}")


_ANONYMOUS = "~"
"""Contexts that no hint names start with this; ids from hints carry a scope with a slash."""
