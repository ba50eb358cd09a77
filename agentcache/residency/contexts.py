"""The book of contexts: which chains of blocks belong to which job, as the stream of turns has shown them."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from agentcache.errors import CheckFailed
from agentcache.model import Context, Key, Standing, TurnArrived, shared

# Several contexts may share a block: it stands as well as the liveliest of them.
_LIVELIEST = (Standing.TOOL, Standing.END_TURN, Standing.UNKNOWN, Standing.SUPERSEDED, Standing.ENDED)


Owners = frozenset[Context]
_NOBODY: Owners = frozenset()


class ContextBook:
    """Contexts by id, the jobs they belong to, and who owns each key.

    Remembers at most `max_contexts` contexts and `max_keys` keys of blocks, unless more are in turns now.
    """

    def __init__(self, max_contexts: int, max_keys: int) -> None:
        self._max_contexts = max_contexts
        self._max_keys = max_keys
        self._contexts: OrderedDict[str, Context] = OrderedDict()  # least recently active first
        self._jobs: dict[str, dict[str, Context]] = {}
        self._owners: dict[Key, Owners] = {}  # the keys of a run with the same owners share one set
        self._left: dict[Key, Standing] = {}  # in memory, owned by nobody since its context rewrote it or ended
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
        return self._owners.get(key, _NOBODY)

    def standings(self, keys: Iterable[Key]) -> Iterator[Standing]:
        """How blocks stand: each as the liveliest of its owners, or as its last owner left it."""
        known: dict[Owners, Standing] = {}
        for key in keys:
            owners = self._owners.get(key)
            if owners is None:
                yield self._left.get(key, Standing.UNKNOWN)
                continue
            standing = known.get(owners)
            if standing is None:
                standing = known[owners] = min((owner.standing for owner in owners), key=_LIVELIEST.index)
            yield standing

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
            if owners := self._owners.get(key):
                anonymous = [context for context in owners if context.id.startswith(_ANONYMOUS)]
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

    def rewrite(self, context: Context, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """Give a context its new chain; returns the part of the old one that it left behind."""
        keep = shared(context.chain, keys)
        dropped = context.chain[keep:]
        self._regroup(dropped, lambda owners: owners - {context})
        self._regroup(keys[keep:], lambda owners: owners | {context})
        for key in keys[keep:]:
            self._left.pop(key, None)
        context.chain = keys
        return dropped

    def leave(self, keys: Iterable[Key], standing: Standing) -> None:
        """These blocks are in memory; those of them that nobody owns stand like this from now on."""
        self._left.update((key, standing) for key in keys if key not in self._owners)

    def forget_key(self, key: Key) -> None:
        """The block of a key is gone from memory."""
        self._left.pop(key, None)

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

    def _regroup(self, keys: Iterable[Key], change: Callable[[Owners], Owners]) -> None:
        # Neighbours mostly have the same owners: the new set is made once for all of them.
        made: dict[Owners, Owners] = {}
        for key in keys:
            old = self._owners.get(key, _NOBODY)
            new = made.get(old)
            if new is None:
                new = made[old] = change(old)
            if new:
                self._owners[key] = new
            else:
                self._owners.pop(key, None)

    def check(self) -> None:
        counted: dict[Key, set[Context]] = {}
        for context in self._contexts.values():
            if self._jobs.get(context.job, {}).get(context.id) is not context:
                raise CheckFailed(f"context {context.id} is not among the contexts of its job {context.job}")
            for key in context.chain:
                counted.setdefault(key, set()).add(context)
        if counted != self._owners:
            wrong = {key for key in counted.keys() | self._owners.keys() if counted.get(key) != self._owners.get(key)}
            raise CheckFailed(f"owners of {len(wrong)} keys do not match the chains: {list(wrong)[:5]}")
        members = sum(len(family) for family in self._jobs.values())
        if members != len(self._contexts):
            raise CheckFailed(f"jobs hold {members} contexts, the book {len(self._contexts)}")
        if both := self._left.keys() & self._owners.keys():
            raise CheckFailed(f"{len(both)} keys are both owned and left behind")


_ANONYMOUS = "~"
"""Contexts that no hint names start with this; ids from hints carry a scope with a slash."""
