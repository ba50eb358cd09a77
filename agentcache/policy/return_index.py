"""Return index: evict what saves least rebuild time per second that it is kept. The default policy.

A block is worth the seconds of its rebuild times the rate at which its contexts come back:

    value = sum over the contexts that hold it of g(class, age)  *  seconds to rebuild it

g is a Gittins index of a pause: the most returns per second of waiting that can still be had from it (`survival`).
All blocks with the same owners have the same rate, so only groups of them compete, each by the price of the run at
its head; the price rises towards the tail, so groups take turns, and a returning turn meets one hole at its front.

Where only an unbroken prefix is found again (`reuse=prefix`) a block lost takes all behind it along. There a group goes
tail first, after those that stand behind it, and competes by the price of all that is left of it: once its dear tail is
gone the rest is worth less than before, so a context that has begun to go goes on, and the others stay whole.
"""

import heapq
from collections.abc import Hashable, Sequence, Set
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import OVER, Block, BlocksRestood, Context, ContextChanged, Event, Owners, Standing, Tally
from agentcache.policy.base import Reuse
from agentcache.policy.guard import Guard
from agentcache.policy.survival import BUCKETS, EDGES, Survival, bucket

_DUE_S = 1.0
"""How soon a queued turn is taken to start: its blocks are about to be used."""

_DUE_RATES = [1 / (_DUE_S + edge) for edge in EDGES[:-1]]
"""By how long it has waited: as long again. Under admission most turns start at once, and some are held for long."""

AT_ONCE = 8
"""Contexts that are rated anew in one call because curves have changed: there may be thousands, and a step waits."""

MOVES = 24
"""Places that are worked out anew in one call because contexts have grown older, and as many at the front."""

_AHEAD = 8
"""Age buckets for which a place far from the front is good: four times the age."""

_id = attrgetter("id")
_index = attrgetter("index")
_owners = attrgetter("owners")


_UNIT = 1 << 100
"""Rates are added up in whole units of 1 / `_UNIT`: exactly, in whatever order contexts come and go."""


class _Owner:
    """A context that is known, and its rate of return: while `loose`, no more than that it is at least."""

    __slots__ = ("arrived_at", "context", "loose", "rate", "rates", "sequence", "since")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.rate = 0.0  # returns per second
        self.loose = False
        self.rates: list[float] = []  # by age, of a pause
        self.since = 0.0  # when the pause began, or the turn arrived
        self.arrived_at: float | None = None  # the first of the turns that are open
        self.sequence = 0  # of its entry in `_edges` that counts


class _Group:
    """Evictable blocks with the same owners, tail first: the head is at the end of the list."""

    __slots__ = ("blocks", "name", "owners", "rate", "stamp")

    def __init__(self, owners: Owners, name: Hashable) -> None:
        self.owners = owners
        self.name = name  # the owners, or of nobody's blocks their release
        self.blocks: list[Block] = []
        self.rate = 0.0  # the sum of its owners' (an upper bound of the rate of the next use)
        self.stamp = 0  # entries of the heap with another stamp are stale

    def add(self, blocks: list[Block]) -> None:
        self.blocks = self.blocks + blocks if self.blocks else blocks
        self.blocks.sort(key=_index, reverse=True)

    def remove(self, blocks: Sequence[Block]) -> None:
        if len(blocks) == len(self.blocks):
            self.blocks = []
        else:
            gone = set(blocks)
            self.blocks = [block for block in self.blocks if block not in gone]


_Entry = tuple[float, int, int, int, int, _Group]
"""A group in the order: value, release, head, sequence, stamp, group."""


class ReturnIndex:
    """Evicts runs of up to `run_blocks` blocks from the head of the group whose head run is worth least.

    With `reuse=prefix` from the tail of the group that is worth least as a whole, and behind which nothing is left.

    Without a host that gives it `Survival` estimates, and until enough returns were seen, the contexts that turned
    longest ago go first, behind what is over and before what queued turns will use. Of a context that has ended nothing
    is worth anything. While the guard rests the policy, its order is stock LRU's.
    O(log groups) a run; a context that grows older moves the groups on its chain at most 60 times a pause, and far less
    often while it is far from the front: its rate is then the least of the next ages, and made exact at the front.
    """

    name: ClassVar[str] = "return-index"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, cost: CostModel, capacity_blocks: int, *, run_blocks: float = 64.0, reuse: Reuse = "holes"
    ) -> None:
        if not (run_blocks >= 1 and run_blocks == int(run_blocks)):
            raise ConfigError(
                f"policy {self.name!r}: run_blocks is {run_blocks}, expected a whole number >= 1; nothing was started"
            )
        self.reuse: Reuse = reuse
        self._cost = cost
        self._run = int(run_blocks)
        self._survival = Survival()
        self._generation = 0
        self.guard = Guard(cost, capacity_blocks)
        self._groups: dict[Hashable, _Group] = {}
        self._group_of: list[_Group | None] = []  # by block id: a dictionary of a million blocks is four times slower
        self._size = 0  # blocks in groups
        self._owners: dict[Context, _Owner] = {}  # all that were heard of
        self._rates, self._loose = Tally(), Tally()
        self._heap: list[_Entry] = []
        self._sequence = 0
        self._edges: list[tuple[float, int, int, _Owner]] = []  # (when a pause is that old, sequence, bucket, owner)
        self._front = 0.0  # the rate of the group that was last evicted from
        self._old: list[_Owner | _Group] = []  # whose rates are still those of the curves before

    def follow(self, survival: Survival) -> None:
        self._survival = survival

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on."""
        self._cost = cost
        self.guard.reprice(cost)
        self._reorder()

    # Blocks

    def offer(self, block: Block, now: float) -> None:
        self.offer_all([block], now)

    def touch(self, block: Block, now: float) -> None:
        self.touch_all([block], now)

    def forget(self, block: Block) -> None:
        self.touch_all([block], now=0.0)

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        for owners, run in groupby(blocks, _owners):
            self._put(list(run), owners, now)

    def touch_all(self, blocks: Sequence[Block], now: float) -> None:
        group_of, ids = self._group_of, self._ids(blocks)
        groups = list(map(group_of.__getitem__, ids))
        if not all(groups):
            raise KeyError(f"some of {len(blocks)} blocks are not evictable")
        taken: dict[Any, list[Block]] = {}
        at = 0
        for group, run in groupby(groups):
            end = at + len(list(run))
            taken.setdefault(group, []).extend(blocks[at:end])
            at = end
        for number in ids:
            group_of[number] = None
        self._size -= len(blocks)
        for group, gone in taken.items():
            group.remove(gone)
            self._file(group)

    def _ids(self, blocks: Sequence[Block]) -> list[int]:
        """Where these blocks are in `_group_of`, which now reaches as far."""
        ids = list(map(_id, blocks))
        if (more := max(ids, default=-1) + 1 - len(self._group_of)) > 0:
            self._group_of += [None] * more
        return ids

    def _put(self, blocks: list[Block], owners: Owners, now: float) -> None:
        group_of, ids = self._group_of, self._ids(blocks)
        if any(map(group_of.__getitem__, ids)) or len(set(ids)) < len(ids):
            raise ValueError(f"some of {len(blocks)} blocks are evictable already, or share an id")
        # Nobody's blocks share a fate with those that were released together with them.
        name = owners or blocks[0].release
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(owners, name)
        for number in ids:
            group_of[number] = group
        self._size += len(blocks)
        group.add(blocks)
        self._weigh(group, now)
        self._file(group)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if self._size - sum(block in self for block in excluded) < need:
            return None
        self._advance(now)
        chosen: list[Block] = []
        kept: list[Block] = []
        before: list[_Group] = []  # of lower value than what stands behind them, which goes first
        tightened = 0
        while len(chosen) < need:
            *_, stamp, group = heapq.heappop(self._heap)
            if stamp != group.stamp:
                continue
            if self.reuse == "prefix" and not self._groups.keys().isdisjoint(group.owners.after.keys()):
                before.append(group)
                continue
            if not self.guard.resting:
                if tightened < MOVES and self._tighten(group, now):
                    tightened += 1
                    continue
                self._front = group.rate
            count = min(self._run, need - len(chosen), len(group.blocks))
            if self._tail_first:
                run = group.blocks[:count]
                del group.blocks[:count]
            else:
                run = group.blocks[: -count - 1 : -1]
                del group.blocks[-count:]
            for block in run:
                self._group_of[block.id] = None
            self._size -= count
            if excluded:
                kept += [block for block in run if block in excluded]
                run = [block for block in run if block not in excluded]
            chosen += run
            self._file(group)
            while before and (not group.blocks or len(chosen) == need):
                self._file(before.pop())
        for block in kept:
            self._put([block], block.owners, now)
        return chosen

    # Value

    def _file(self, group: _Group) -> None:
        """Give a group its place by its value, or forget it when nothing of it is left."""
        group.stamp += 1
        if not group.blocks:
            self._groups.pop(group.name, None)
            return
        heapq.heappush(self._heap, self._entry(group))
        if len(self._heap) > 4 * len(self._groups) + 64:
            self._heap = [entry for entry in self._heap if entry[-2] == entry[-1].stamp]
            heapq.heapify(self._heap)

    def _reorder(self) -> None:
        """Give all groups their places by another order or price, and by their rates as they are."""
        self._heap = [self._entry(group) for group in self._groups.values()]
        heapq.heapify(self._heap)

    @property
    def _tail_first(self) -> bool:
        return self.reuse == "prefix" or self.guard.resting

    def _entry(self, group: _Group) -> _Entry:
        self._sequence += 1
        block = group.blocks[0 if self._tail_first else -1]  # the next one to go
        return self._value(group, block), block.release, block.index, self._sequence, group.stamp, group

    def _value(self, group: _Group, first: Block) -> float:
        if self.guard.resting:
            return float(first.release)
        if not self._survival.ready and first.standing in OVER:
            return -1.0  # over: it goes before what is idle, of which nothing is known and age decides
        count = len(group.blocks) if self.reuse == "prefix" else min(self._run, len(group.blocks))
        return group.rate * self._cost.run_seconds(group.blocks[-1].index, count) / count

    def _weigh(self, group: _Group, now: float) -> None:
        if group.owners:
            group.rate = self._rates.sum(group.owners) / _UNIT
        elif self._survival.ready:
            curve = self._survival.curve(())
            group.rate = curve.rates[bucket(now - group.blocks[0].released_at)]

    def _rate(self, owner: _Owner, now: float) -> None:
        """Look an owner's rate up, and when it will change by age alone."""
        context = owner.context
        owner.rate, owner.loose, owner.sequence = 0.0, False, 0
        if not context.turns:
            owner.arrived_at = None
        elif owner.arrived_at is None:
            owner.arrived_at = now
        if owner.arrived_at is not None and (self.reuse == "prefix" or context.held):
            owner.since, owner.rates = owner.arrived_at, _DUE_RATES
            self._grow_older(owner, bucket(now - owner.since))
            return
        if context.turns:
            owner.rate = 1 / _DUE_S
        elif context.standing is Standing.ENDED or not self._survival.ready:
            pass
        elif (since := self._survival.since(context)) is not None:
            owner.since, owner.rates = since, self._survival.rates(context)
            self._grow_older(owner, bucket(now - since))
            return
        self._count(owner)

    def _count(self, owner: _Owner) -> None:
        self._rates.put(owner.context, int(owner.rate * _UNIT))
        self._loose.put(owner.context, owner.loose)

    def _grow_older(self, owner: _Owner, age: int, exactly: bool = False) -> None:
        """An owner's pause is in this age bucket now."""
        owner.rate, ahead = owner.rates[age], 1
        owner.loose = not exactly and (least := min(owner.rates[age : age + _AHEAD])) > 2 * self._front
        if owner.loose:
            owner.rate, ahead = least, _AHEAD
        self._count(owner)
        self._sequence += 1
        owner.sequence = self._sequence
        if age + ahead < BUCKETS:
            heapq.heappush(self._edges, (owner.since + EDGES[age + ahead], self._sequence, age + ahead, owner))
        if len(self._edges) > 4 * len(self._owners) + 64:  # nobody may have asked for victims for long
            self._edges = [edge for edge in self._edges if edge[-1].sequence == edge[1]]
            heapq.heapify(self._edges)

    def _tighten(self, group: _Group, now: float) -> bool:
        """Give a group its place by what its rate is; False if it has that already."""
        loose = [self._owners[context] for context in self._loose.among(group.owners)]
        for owner in loose:
            self._grow_older(owner, bucket(now - owner.since), exactly=True)
            self._reweigh(owner, now)
        return bool(loose)

    def _reweigh(self, owner: _Owner, now: float) -> None:
        if owner.context.seat is not None:
            for owners in owner.context.seat.path():
                if group := self._groups.get(owners):
                    self._weigh(group, now)
                    self._file(group)

    def _advance(self, now: float) -> None:
        """Bring all values up to the clock."""
        if self._generation != self._survival.generation:
            self._generation = self._survival.generation
            if len(self._owners) <= AT_ONCE:
                self._refile(now)
            else:
                nobodys = [group for group in self._groups.values() if not group.owners]
                self._old = [*nobodys, *self._owners.values()]
        for old in self._old[-AT_ONCE:]:
            self._renew(old, now)
        del self._old[-AT_ONCE:]
        for _ in range(MOVES):  # nobody may have asked for long; who comes later is as old in the next call
            if not (self._edges and self._edges[0][0] <= now):
                break
            _, sequence, age, owner = heapq.heappop(self._edges)
            if owner.sequence == sequence:
                rate = owner.rate
                self._grow_older(owner, max(age, bucket(now - owner.since)))
                if owner.rate != rate:
                    self._reweigh(owner, now)

    def _renew(self, old: _Owner | _Group, now: float) -> None:
        """Rate by the curves of now, unless it is gone."""
        if isinstance(old, _Group):
            if self._groups.get(old.name) is old:
                self._weigh(old, now)
                self._file(old)
        elif self._owners.get(old.context) is old:
            self._rate(old, now)
            self._reweigh(old, now)

    def _refile(self, now: float) -> None:
        """Work all places out anew."""
        self._old.clear()
        self._edges.clear()
        for owner in self._owners.values():
            self._rate(owner, now)
        for group in self._groups.values():
            self._weigh(group, now)
        self._reorder()

    # Events

    def observe(self, event: Event, now: float) -> None:
        if self.guard.observe(event):
            self._reorder()
        match event:
            case ContextChanged(context, gone):
                owner = self._owners.get(context) or self._owners.setdefault(context, _Owner(context))
                self._rate(owner, now)
                if gone:
                    del self._owners[context]
                    owner.rate, owner.loose, owner.sequence = 0.0, False, 0
                    self._count(owner)
                self._reweigh(owner, now)
            case BlocksRestood(blocks):
                moved = [block for block in blocks if block in self]
                self.touch_all(moved, now)
                moved.sort(key=_index, reverse=True)
                by_owners: dict[Any, list[Block]] = {}
                for block in moved:
                    by_owners.setdefault(block.owners or block.release, []).append(block)
                for run in by_owners.values():
                    self._put(run, run[0].owners, now)

    # The books

    def __len__(self) -> int:
        return self._size

    def __contains__(self, block: object) -> bool:
        return isinstance(block, Block) and block.id < len(self._group_of) and self._group_of[block.id] is not None

    def check(self) -> None:
        self.guard.check()
        filed = sum(len(group.blocks) for group in self._groups.values())
        known = sum(group is not None for group in self._group_of)
        if not filed == self._size == known:
            raise CheckFailed(
                f"{self.name}: groups hold {filed} blocks, {self._size} are evictable, {known} know theirs"
            )
        current = {entry[-1].name for entry in self._heap if entry[-2] == entry[-1].stamp}
        if current != self._groups.keys():
            raise CheckFailed(f"{self.name}: {len(self._groups)} groups, {len(current)} of them in the order")
        for context, owner in self._owners.items():
            if self._rates.of(context) != int(owner.rate * _UNIT) or self._loose.of(context) != owner.loose:
                raise CheckFailed(
                    f"{self.name}: context {context.id} returns at {owner.rate}, and is counted otherwise"
                )
        for group in self._groups.values():
            if not group.blocks:
                raise CheckFailed(f"{self.name}: group {group.name} is empty")
            for block in group.blocks:
                if self._group_of[block.id] is not group or block.owners is not group.owners:
                    raise CheckFailed(f"{self.name}: {block} is in the wrong group")
            indices = [block.index for block in group.blocks]
            if indices != sorted(indices, reverse=True):
                raise CheckFailed(f"{self.name}: a group's blocks are not tail first")
