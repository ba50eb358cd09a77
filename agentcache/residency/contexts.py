"""The book of contexts: which chains of blocks belong to which job, as the stream of turns has shown them."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from agentcache.errors import CheckFailed
from agentcache.model import NOBODY, Context, Key, Owners, Standing, TurnArrived, shared
from agentcache.residency.lineage import LOOKED_AT, goes_on, nearest
from agentcache.residency.tree import OwnersTree


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
        self._tree = OwnersTree()
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
        return self._tree.at.get(key, NOBODY)

    @property
    def owned(self) -> Mapping[Key, Owners]:
        """The owners of every key that has some."""
        return self._tree.at

    def resolve(self, turn: TurnArrived) -> Context:
        """Find the context that a turn extends, by its ids where it has any, else by lineage; or open a new one."""
        context: Context | None
        if turn.context is not None:
            context = self._contexts.get(turn.context)
        else:
            context = self._by_lineage(turn.keys, turn.job)
            if context is None and turn.job is not None:
                family = self._jobs.get(turn.job, {})
                context = nearest(list(islice(reversed(family.values()), LOOKED_AT)), turn.keys)
        if context is None:
            context = self._open(turn)
        self._contexts.move_to_end(context.id)
        context.given = len(turn.keys)
        if not context.chain:
            context.opening = len(turn.keys)
        return context

    def _by_lineage(self, keys: tuple[Key, ...], job: str | None) -> Context | None:
        """The idle context from which a turn goes on: of its job, or anonymous like the turn."""

        def fits(context: Context) -> bool:
            return not context.turns and (context.job == job if job else context.id.startswith(_ANONYMOUS))

        known, node = self._tree.deepest(keys)
        if node is None:
            return None
        if len(node) == 1:
            (alone,) = node
            if fits(alone) and goes_on(alone, keys, known, node.start):
                return alone
        # Whose whole chain is in the prompt; the longest.
        ends = (seat for seat in node.path() if seat.end <= known)
        latest = (context for seat in ends for context in islice(reversed(seat.seated), LOOKED_AT))
        return next(filter(fits, latest), None)

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
        before = context.chain
        revived = self._take_up(keys[shared(before, keys) :])
        self._tree.move(context, keys)
        return before[shared(before, context.chain) :], revived

    def _take_up(self, keys: Iterable[Key]) -> list[Context]:
        """Keys that remnants hold are theirs no more."""
        revived: dict[Context, None] = {}
        if self._remnants:
            for key in keys:
                owners = self.owners(key)
                if owners.left:
                    (remnant,) = owners
                    revived[remnant] = None
                    self._lose(remnant, key)
        return list(revived)

    def leave(self, keys: Iterable[Key], standing: Standing, idle_since: float) -> Context | None:
        """These blocks are in memory; those of them that nobody owns now belong to the remnant that is returned."""
        chain = tuple(key for key in keys if key not in self._tree.at)
        if not chain:
            return None
        self._names += 1
        remnant = Context(f"{_ANONYMOUS}left{self._names}", "", chain, standing, idle_since)
        self._tree.leave(remnant)
        self._remnants[remnant] = len(chain)
        return remnant

    def forget_key(self, key: Key) -> Context | None:
        """The block of a key is gone from memory; returns the remnant of which it was the last one."""
        owners = self.owners(key)
        if not owners.left:
            return None
        (remnant,) = owners
        return remnant if self._lose(remnant, key) else None

    def _lose(self, remnant: Context, key: Key) -> bool:
        """A remnant holds one block less; True if that was its end."""
        del self._tree.at[key]
        self._remnants[remnant] -= 1
        if self._remnants[remnant]:
            return False
        del self._remnants[remnant]
        self._tree.end(remnant)
        return True

    def stand(self, context: Context, standing: Standing) -> None:
        """A context stands so now, and its blocks with it."""
        self._tree.stand(context, standing)

    def close(self, context: Context) -> None:
        """Forget a context, which keeps the chain that it had."""
        chain = context.chain
        self._tree.move(context, ())
        context.chain = chain
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
        if not crowded and len(self._tree.at) <= self._max_keys:
            return None
        idle = next((context for context in self._contexts.values() if not context.turns), None)
        return next(iter(self._contexts.values())) if crowded and not idle else idle

    def check(self) -> None:
        self._tree.check()
        counted: dict[Key, set[Context]] = {}
        for context in self._contexts.values():
            if self._jobs.get(context.job, {}).get(context.id) is not context:
                raise CheckFailed(f"context {context.id} is not among the contexts of its job {context.job}")
            for key in context.chain:
                counted.setdefault(key, set()).add(context)
        for remnant, blocks in self._remnants.items():
            kept = [key for key in remnant.chain if self.owners(key) is remnant.seat]
            if len(kept) != blocks or not kept:
                raise CheckFailed(f"remnant {remnant.id} has {blocks} blocks left, the book knows of {len(kept)}")
            counted.update((key, {remnant}) for key in kept)
        owned = {key: set(owners) for key, owners in self.owned.items()}
        if counted != owned:
            wrong = {key for key in counted.keys() | owned.keys() if counted.get(key) != owned.get(key)}
            raise CheckFailed(f"owners of {len(wrong)} keys do not match the chains: {list(wrong)[:5]}")
        members = sum(len(family) for family in self._jobs.values())
        if members != len(self._contexts):
            raise CheckFailed(f"jobs hold {members} contexts, the book {len(self._contexts)}")


_ANONYMOUS = "~"
"""Contexts that no hint names start with this; ids from hints carry a scope with a slash."""
