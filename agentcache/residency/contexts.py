"""The book of contexts: which chains of blocks belong to which job, as the stream of turns has shown them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from agentcache.errors import CheckFailed
from agentcache.model import Context, Key, Standing, TurnArrived

# Several contexts may share a block: it stands as well as the liveliest of them.
_LIVELIEST = (Standing.TOOL, Standing.END_TURN, Standing.UNKNOWN, Standing.SUPERSEDED, Standing.ENDED)


class ContextBook:
    """Contexts by id, the jobs they belong to, and who owns each key. Remembers at most `max_contexts`."""

    def __init__(self, max_contexts: int) -> None:
        self._max = max_contexts
        self._contexts: OrderedDict[str, Context] = OrderedDict()  # least recently active first
        self._jobs: dict[str, dict[str, Context]] = {}
        self._owners: dict[Key, list[Context]] = {}
        self._superseded: set[Key] = set()  # left behind by a turn that rewrote history, owned by nobody since
        self._names = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[Context]:
        return iter(self._contexts.values())

    def get(self, context_id: str) -> Context | None:
        return self._contexts.get(context_id)

    def of_job(self, job: str) -> list[Context]:
        return list(self._jobs.get(job, {}).values())

    def owners(self, key: Key) -> Sequence[Context]:
        return self._owners.get(key, ())

    def standing(self, key: Key) -> Standing:
        """How a block stands: the liveliest of its owners, superseded if only a rewritten past held it."""
        owners = self._owners.get(key)
        if owners:
            if len(owners) == 1:
                return owners[0].standing
            return min((owner.standing for owner in owners), key=_LIVELIEST.index)
        return Standing.SUPERSEDED if key in self._superseded else Standing.UNKNOWN

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
        """Of a job's idle contexts, the one that the turn continues: it has most of its chain in common.

        A turn that continues none opens a context of its own: a sub-agent must not take its parent's place.
        """
        idle = [context for context in contexts if not context.turns]
        best = max(idle, key=lambda context: shared(context.chain, keys), default=None)
        return best if best and 2 * shared(best.chain, keys) >= len(best.chain) else None

    def _by_lineage(self, keys: tuple[Key, ...]) -> Context | None:
        """The idle context that owns the deepest known block of the turn, if it is anonymous like the turn."""
        for key in reversed(keys):
            for context in reversed(self._owners.get(key, ())):
                if not context.turns and context.id.startswith(_ANONYMOUS):
                    return context
            if key in self._owners:
                return None
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

    def rewrite(self, context: Context, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """Give a context its new chain; returns the part of the old one that it left behind."""
        keep = shared(context.chain, keys)
        dropped = context.chain[keep:]
        for key in dropped:
            self._disown(key, context)
        for key in keys[keep:]:
            self._owners.setdefault(key, []).append(context)
            self._superseded.discard(key)
        context.chain = keys
        return dropped

    def mark_superseded(self, keys: Sequence[Key]) -> None:
        """A turn has rewritten these away; those that nobody else owns stand as superseded while they are in memory."""
        self._superseded.update(key for key in keys if key not in self._owners)

    def forget_key(self, key: Key) -> None:
        """The block of a key is gone from memory."""
        self._superseded.discard(key)

    def close(self, context: Context) -> None:
        """Forget a context."""
        for key in context.chain:
            self._disown(key, context)
        del self._contexts[context.id]
        family = self._jobs[context.job]
        del family[context.id]
        if not family:
            del self._jobs[context.job]

    def excess(self) -> list[Context]:
        """The least recently active idle contexts beyond the bound."""
        surplus = len(self._contexts) - self._max
        if surplus <= 0:
            return []
        idle = (context for context in self._contexts.values() if not context.turns)
        return [context for context, _ in zip(idle, range(surplus), strict=False)]

    def _disown(self, key: Key, context: Context) -> None:
        owners = self._owners[key]
        owners.remove(context)
        if not owners:
            del self._owners[key]

    def check(self) -> None:
        counted: dict[Key, int] = {}
        for context in self._contexts.values():
            if self._jobs.get(context.job, {}).get(context.id) is not context:
                raise CheckFailed(f"context {context.id} is not among the contexts of its job {context.job}")
            for key in context.chain:
                counted[key] = counted.get(key, 0) + 1
        owned = {key: len(owners) for key, owners in self._owners.items()}
        if counted != owned:
            wrong = {key for key in counted.keys() | owned.keys() if counted.get(key) != owned.get(key)}
            raise CheckFailed(f"owners of {len(wrong)} keys do not match the chains: {list(wrong)[:5]}")
        members = sum(len(family) for family in self._jobs.values())
        if members != len(self._contexts):
            raise CheckFailed(f"jobs hold {members} contexts, the book {len(self._contexts)}")
        if both := self._superseded & self._owners.keys():
            raise CheckFailed(f"{len(both)} keys are both owned and superseded")


_ANONYMOUS = "~"
"""Contexts that no hint names start with this; ids from hints carry a scope with a slash."""


def shared(a: Sequence[Key], b: Sequence[Key]) -> int:
    """Length of the common prefix of two chains: O(log n), since an equal chained key means equal keys before it."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
