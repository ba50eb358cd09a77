"""The one retention layer: what is expected back stands aside of a policy, for as long as a rule says.

A lease is a rank, not a reference: leased blocks stay evictable, so that no running turn is preempted and no queued one
refused for the sake of an idle context, and usage stays honest. While a lease runs the inner policy does not see its
blocks. When it ends, by time, by what the rule learns, or because memory is short, they are the inner policy's again,
which evicts some and keeps others: part of a context survives its lease.
"""

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Block, BlocksRestood, Context, Event, Owners
from agentcache.policy.base import (
    FollowsPrices,
    FollowsSurvival,
    Foresees,
    Policy,
    Retains,
    Reuse,
    offer_all,
    touch_all,
)
from agentcache.policy.survival import Survival

_HANDED_ON = ("guard", "conflicts")
"""What only some policies have, and hosts show."""
_owners = attrgetter("owners")


@dataclass(slots=True)
class LeaseCounts:
    """How leases began and ended. `idle_block_s`: blocks times seconds that they were kept under leases."""

    granted: int = 0
    refused: int = 0  # the rule said 0
    taken_up: int = 0  # the context returned in time
    wasted: int = 0  # of these, whose turn could use nothing: its prompt did not extend the one before
    expired: int = 0
    pressed: int = 0  # ended because memory was needed, or because all leases together exceeded their share
    ended: int = 0  # the job ended, was aborted or forgotten
    idle_block_s: float = 0.0


@dataclass(slots=True, eq=False)
class Lease:
    """Whom it keeps until when, and the evictable blocks. `stamp` counts grants: leases of one holder differ in it."""

    holder: Hashable
    until: float = 0.0
    priority: int = 0
    stamp: int = 0
    blocks: dict[Block, None] = field(default_factory=dict)


class LeaseRule:
    """How long blocks are kept for whom, by what is heard of contexts; this one keeps nothing.

    Of use to it are `grant`, `end` and `fit` of the layer that it is handed. One that has `reprice`, `follow` or
    `foresee` is told like a policy.
    """

    name = ""
    needs: frozenset[str] = frozenset()
    most_blocks = math.inf
    """Beyond so many kept blocks leases end, the weakest first."""

    def holder(self, context: Context) -> Hashable:
        """Who has the lease that keeps this context's blocks."""
        return context

    def observe(self, event: Event, now: float, layer: "Leased") -> None:
        """Learn from an event; grant and end leases."""

    def rank(self, lease: Lease) -> tuple[float, ...]:
        """The least gives way first: whoever came last."""
        return (-lease.stamp,)

    def awaited(self, holder: Hashable) -> bool:
        """Whether a lease whose time is over lasts on, because its blocks are about to be used."""
        return False

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""


class Leased:
    """A policy that keeps blocks under leases apart from an `inner` one, which orders all the rest and goes first.

    When memory is short leases end, the weakest by the rule first, until the inner policy has enough. With `aside`,
    another copy of the inner policy, they do not: what is kept leaves one by one, in that copy's order. Without leases
    every call goes straight through.
    """

    reuse: Reuse

    def __init__(self, rule: LeaseRule, inner: Policy, aside: Policy | None = None) -> None:
        self.inner = inner
        self.leases = LeaseCounts()
        self.name = "+".join(filter(None, (rule.name, inner.name)))
        self.reuse = inner.reuse
        self.needs = rule.needs | inner.needs
        self._rule, self._aside = rule, aside
        self._behind = [inner] if aside is None else [inner, aside]
        self._offer, self._touch = offer_all(inner), touch_all(inner)
        # Evictable, and not the inner policy's: since when, and under which leases. Owners may change at any time.
        self._kept: dict[Block, tuple[float, list[Lease]]] = {}
        self._leases: dict[Hashable, Lease] = {}
        self._ends: list[tuple[float, int, Hashable]] = []
        self._stamps = 0
        self._version = 0
        self._now = -math.inf

    # What is handed on

    def __getattr__(self, name: str) -> Any:
        if name not in _HANDED_ON:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.inner, name)

    def follow(self, survival: Survival) -> None:
        """Use these estimates from now on."""
        for told in (self._rule, *self._behind):
            if isinstance(told, FollowsSurvival):
                told.follow(survival)

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on."""
        for told in (self._rule, *self._behind):
            if isinstance(told, FollowsPrices):
                told.reprice(cost)

    def foresee(self, need: str, known: Mapping[Any, Sequence[Any]]) -> None:
        """Tell the rule and what is behind it what they need to know, if they do."""
        for told in (self._rule, *self._behind):
            if isinstance(told, Foresees):
                told.foresee(need, known)

    def retains(self, context: Context) -> bool:
        """Whether the context is under a lease now, of this layer or one behind it."""
        if self._rule.holder(context) in self._leases:
            return True
        return any(isinstance(policy, Retains) and policy.retains(context) for policy in self._behind)

    def retained_version(self) -> int:
        """Another number whenever `retains` may answer otherwise."""
        return self._version + sum(policy.retained_version() for policy in self._behind if isinstance(policy, Retains))

    # Blocks

    def offer(self, block: Block, now: float) -> None:
        self.offer_all([block], now)

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        if self._leases:
            free: list[Block] = []
            for owners, run in groupby(blocks, _owners):
                leases = self._leases_of(owners)
                for block in run:
                    if block in self._kept or (leases and block in self.inner):
                        raise ValueError(f"{block} is evictable already")
                    if leases:
                        self._keep(block, leases, now)
                    else:
                        free.append(block)
            blocks = free
        self._offer(blocks, now)
        self.fit(self._rule.most_blocks, now)

    def touch(self, block: Block, now: float) -> None:
        self.touch_all([block], now)

    def touch_all(self, blocks: Sequence[Block], now: float) -> None:
        if self._kept:
            free: list[Block] = []
            for block in blocks:
                if block not in self._kept:
                    free.append(block)
                    continue
                if self._aside is not None:
                    self._aside.touch(block, now)
                self._unkeep(block, now)
            blocks = free
        self._touch(blocks, now)

    def forget(self, block: Block) -> None:
        if block in self._kept:
            if self._aside is not None:
                self._aside.forget(block)
            self._unkeep(block, self._now)
        else:
            self.inner.forget(block)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        now = self._clock(now)
        self.expire(now)
        if not self._kept:
            return self.inner.victims(need, excluded, now)
        if len(self) - sum(block in self for block in excluded) < need:
            return None
        if self._aside is None:
            while self._leases and self._free(excluded) < need:
                self._press(now)
            return self.inner.victims(need, excluded, now)
        chosen = self.inner.victims(min(need, self._free(excluded)), excluded, now) or []
        if len(chosen) < need:
            kept = self._aside.victims(need - len(chosen), excluded, now)
            assert kept is not None, f"{need} asked of {len(self)} evictable blocks"
            for block in kept:
                self._unkeep(block, now)
            chosen += kept
        return chosen

    def _free(self, excluded: Set[Block]) -> int:
        """How many blocks the inner policy can give."""
        return len(self.inner) - sum(block in self.inner for block in excluded)

    # Under leases

    def _leases_of(self, owners: Owners) -> list[Lease]:
        holders = dict.fromkeys(map(self._rule.holder, owners))  # branches of a job have one lease
        return [lease for holder in holders if (lease := self._leases.get(holder))]

    def _keep(self, block: Block, leases: list[Lease], now: float) -> None:
        """Put a block aside under these leases."""
        self._list(block, leases, now)
        if self._aside is not None:
            self._aside.offer(block, now)

    def _list(self, block: Block, leases: list[Lease], since: float) -> None:
        for lease in leases:
            lease.blocks[block] = None
        self._kept[block] = since, leases

    def _unlist(self, block: Block) -> float:
        """Take a block from under its leases; returns since when it was there."""
        since, leases = self._kept.pop(block)
        for lease in leases:
            del lease.blocks[block]
        return since

    def _unkeep(self, block: Block, now: float) -> None:
        self.leases.idle_block_s += max(now - self._unlist(block), 0.0)

    def _restand(self, blocks: Iterable[Block], now: float) -> None:
        """These have gained or lost a lease, or have other owners now: who keeps them may have changed with that."""
        freed: list[Block] = []
        for owners, run in groupby(blocks, _owners):
            leases = self._leases_of(owners)
            for block in run:
                if block in self._kept:
                    since = self._unlist(block)
                    if leases:
                        self._list(block, leases, since)
                    else:
                        self.leases.idle_block_s += max(now - since, 0.0)
                        freed.append(block)
                elif leases and block in self.inner:
                    self.inner.forget(block)
                    self._keep(block, leases, now)
        if self._aside is not None:
            for block in freed:
                self._aside.forget(block)
        self._offer(freed, now)

    # Leases

    def grant(self, holder: Hashable, until: float, priority: int = 0, blocks: Iterable[Block] = ()) -> int:
        """Keep a holder until then, in place of a lease that it has; `blocks` are its evictable ones.

        Returns how many are kept now.
        """
        lease = self._leases.setdefault(holder, Lease(holder))
        self._stamps += 1
        lease.until, lease.priority, lease.stamp = until, priority, self._stamps
        self._version += 1
        self.leases.granted += 1
        if until < math.inf:
            heapq.heappush(self._ends, (until, self._stamps, holder))
        if len(self._ends) > 4 * len(self._leases) + 64:  # most leases end before their time, or are renewed
            self._ends = [end for end in self._ends if self._runs(end)]
            heapq.heapify(self._ends)
        self._restand(blocks, self._now)
        return len(lease.blocks)

    def end(self, holder: Hashable, now: float) -> bool:
        """The holder's lease is over; returns whether there was one."""
        lease = self._leases.pop(holder, None)
        if lease is None:
            return False
        self._version += 1
        self._restand(list(lease.blocks), now)
        return True

    def until(self, holder: Hashable) -> float | None:
        """When the holder's lease ends, in seconds; None without one."""
        lease = self._leases.get(holder)
        return lease.until if lease else None

    def holders(self) -> list[Hashable]:
        """Who has a lease."""
        return list(self._leases)

    def expire(self, now: float) -> None:
        """End the leases whose time is over."""
        awaited: list[tuple[float, int, Hashable]] = []
        while self._ends and self._ends[0][0] <= now:
            end = heapq.heappop(self._ends)
            if not self._runs(end):
                continue
            if self._rule.awaited(end[-1]):
                awaited.append(end)
            else:
                self.leases.expired += self.end(end[-1], now)
        for end in awaited:
            heapq.heappush(self._ends, end)

    def fit(self, most_blocks: float, now: float, spared: int = 0) -> None:
        """End leases, the weakest first and all but `spared`, while more than `most_blocks` blocks are kept."""
        while len(self._kept) > most_blocks and len(self._leases) > spared:
            self._press(now)

    def _press(self, now: float) -> None:
        self.leases.pressed += 1
        self.end(min(self._leases.values(), key=self._rule.rank).holder, now)

    def _runs(self, end: tuple[float, int, Hashable]) -> bool:
        """Whether an entry of the heap is that of a lease that still runs."""
        _, stamp, holder = end
        lease = self._leases.get(holder)
        return lease is not None and lease.stamp == stamp

    # Events

    def observe(self, event: Event, now: float) -> None:
        now = self._clock(now)
        self._rule.observe(event, now, self)
        if isinstance(event, BlocksRestood) and self._leases:
            self._restand(event.blocks, now)
        self.fit(self._rule.most_blocks, now)
        for policy in self._behind:
            policy.observe(event, now)

    def _clock(self, now: float) -> float:
        """Never backward: a lease that began after its end would be nobody's."""
        self._now = max(self._now, now)
        return self._now

    # The books

    def __len__(self) -> int:
        return len(self.inner) + len(self._kept)

    def __contains__(self, block: object) -> bool:
        return block in self._kept or block in self.inner

    def check(self) -> None:
        self._rule.check()
        for policy in self._behind:
            policy.check()
        listed = {(block, lease) for lease in self._leases.values() for block in lease.blocks}
        if listed != {(block, lease) for block, (_, leases) in self._kept.items() for lease in leases}:
            raise CheckFailed(f"{self.name}: {len(listed)} blocks are listed by leases that do not keep them")
        for block, (_, leases) in self._kept.items():
            if block in self.inner or not leases:
                raise CheckFailed(f"{self.name}: {block} is kept without a lease, or is the inner policy's too")
        if self._aside is not None and (
            len(self._aside) != len(self._kept) or not all(block in self._aside for block in self._kept)
        ):
            raise CheckFailed(f"{self.name}: {len(self._kept)} blocks are kept, {len(self._aside)} stand aside")
        if len(self._kept) > self._rule.most_blocks:
            raise CheckFailed(
                f"{self.name}: {len(self._kept)} blocks are kept, at most {self._rule.most_blocks} may be"
            )
        ends = {(holder, stamp) for _, stamp, holder in self._ends}
        for lease in self._leases.values():
            if lease.until < math.inf and (lease.holder, lease.stamp) not in ends:
                raise CheckFailed(f"{self.name}: nobody ends the lease of {lease.holder}")
