"""Leases that the residency service grants: jobs whose idle blocks go after all others, over any policy."""

import heapq
from collections.abc import Iterable, Sequence, Set
from typing import Any

from agentcache.errors import CheckFailed
from agentcache.model import Block, BlocksRestood, Context, Event
from agentcache.policy.base import Policy, offer_all, touch_all
from agentcache.policy.layer import Layer


class Leased(Layer):
    """Keeps the evictable blocks of leased jobs apart from an `inner` policy, which orders all the rest.

    A lease is a rank, not a reference: under pressure leases end, the least important and soonest over first, and the
    blocks are the inner policy's again. Without leases every call goes straight through.
    """

    name = "leased"

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.inner = inner
        self.name = inner.name  # no spec asks for this layer
        self.pressed = 0
        self._offer, self._touch = offer_all(inner), touch_all(inner)
        self._leases: dict[str, tuple[float, int]] = {}  # job -> until (seconds), keep priority
        self._ends: list[tuple[float, str]] = []
        self._kept: dict[Block, None] = {}

    def retains(self, context: Context) -> bool:
        """Whether the context's job has a lease now."""
        return context.job in self._leases or super().retains(context)

    # Leases

    def grant(self, job: str, until: float, keep_priority: int, blocks: Iterable[Block]) -> int:
        """Keep a job until then; `blocks` are its evictable ones, shared ones perhaps more than once.

        Returns how many are kept now.
        """
        self._leases[job] = (until, keep_priority)
        self._retentions += 1
        heapq.heappush(self._ends, (until, job))
        if len(self._ends) > 2 * len(self._leases) + 64:  # of renewed leases only the last end counts
            self._ends = sorted((until, job) for job, (until, _) in self._leases.items())
        for block in blocks:
            if block in self.inner:
                self.inner.forget(block)
                self._kept[block] = None
        return sum(any(owner.job == job for owner in block.owners) for block in self._kept)

    def end(self, job: str, now: float) -> None:
        """The job's lease is over."""
        if self._leases.pop(job, None) is not None:
            self._retentions += 1
            self._give_back([block for block in self._kept if not self._leased(block)], now)

    def __iter__(self) -> Any:
        return iter(self._leases)

    def _leased(self, block: Block) -> bool:
        return any(owner.job in self._leases for owner in block.owners)

    def _give_back(self, blocks: list[Block], now: float) -> None:
        for block in blocks:
            del self._kept[block]
        self._offer(blocks, now)

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            until, job = heapq.heappop(self._ends)
            if job in self._leases and self._leases[job][0] == until:
                self.end(job, now)

    # Blocks

    def offer(self, block: Block, now: float) -> None:
        self.offer_all([block], now)

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        if self._leases:
            self._expire(now)
            if kept := dict.fromkeys(block for block in blocks if self._leased(block)):
                if any(block in self for block in kept):
                    raise ValueError("some of these blocks are evictable already")
                self._kept.update(kept)
                blocks = [block for block in blocks if block not in kept]
        self._offer(blocks, now)

    def touch(self, block: Block, now: float) -> None:
        self.touch_all([block], now)

    def touch_all(self, blocks: Sequence[Block], now: float) -> None:
        if self._kept:
            free = [block for block in blocks if block not in self._kept]
            for block in blocks:
                self._kept.pop(block, None)
            blocks = free
        self._touch(blocks, now)

    def forget(self, block: Block) -> None:
        if block in self._kept:
            del self._kept[block]
        else:
            self.inner.forget(block)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        self._expire(now)
        if self._kept:
            if len(self) - sum(block in self for block in excluded) < need:
                return None
            while self._leases and len(self.inner) - sum(block in self.inner for block in excluded) < need:
                least = min(self._leases, key=lambda job: (self._leases[job][1], self._leases[job][0]))
                self.pressed += 1
                self.end(least, now)
        return self.inner.victims(need, excluded, now)

    def observe(self, event: Event, now: float) -> None:
        if isinstance(event, BlocksRestood) and (self._leases or self._kept):
            moved = [block for block in event.blocks if block in self._kept and not self._leased(block)]
            self._give_back(moved, now)
            for block in event.blocks:
                if block not in self._kept and block in self.inner and self._leased(block):
                    self.inner.forget(block)
                    self._kept[block] = None
        self.inner.observe(event, now)

    # The books

    def __len__(self) -> int:
        return len(self.inner) + len(self._kept)

    def __contains__(self, block: object) -> bool:
        return block in self._kept or block in self.inner

    def check(self) -> None:
        self.inner.check()
        for block in self._kept:
            if block in self.inner or not self._leased(block):
                raise CheckFailed(f"{self.name}: {block} is kept without a lease, or is the inner policy's too")
