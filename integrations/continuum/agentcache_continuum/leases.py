"""Retention by leases over any policy: what is expected back is kept apart until its lease ends, or memory is needed.

A lease is a rank, not a reference: leased blocks stay evictable, so that no running turn is preempted and no queued one
refused for the sake of an idle context, and usage stays honest. While a lease runs the inner policy does not see the
context's blocks. When it ends, by time, by an end of the job or under pressure, they are the inner policy's again,
which evicts some and keeps others: part of a context survives its lease.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import (
    Block,
    BlocksRestood,
    Context,
    ContextChanged,
    Event,
    JobFinished,
    PoolResized,
    RetainAsked,
    Standing,
    ToolStarted,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy import Policy
from agentcache.policy.base import offer_all, touch_all
from agentcache.policy.layer import Layer
from agentcache_continuum.pauses import UNNAMED, Conflicts, Pauses
from agentcache_continuum.rules import Rule


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


@dataclass(slots=True)
class _Program:
    """A job: its place in the order of arrival, finished turns, and its contexts that are known."""

    place: int
    turns: int = 0
    over: bool = False
    contexts: set[Context] = field(default_factory=set)


@dataclass(slots=True)
class _Turn:
    """An open turn; `lost`: it returned to a context that was no longer kept. Times are seconds."""

    context: Context
    arrived_s: float
    lost: bool
    scheduled: bool = False


@dataclass(slots=True, eq=False)
class _Lease:
    """Until when a context is kept, and its evictable blocks. `stamp` tells leases of one context apart."""

    until: float
    since: float
    stamp: int
    blocks: dict[Block, None] = field(default_factory=dict)


class Leases(Layer):
    """A policy that keeps contexts apart from an `inner` one for as long as a `rule` says.

    A context gets a lease when its turn finishes with a tool call, and keeps it until its next turn has its blocks; a
    lease that runs out while that turn waits lasts as long as the wait. Leases hold at most `share` of the pool; when
    memory is needed, or the share is exceeded, the lease of the program that *arrived latest* ends first.
    """

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Policy, rule: Rule, share: float) -> None:
        if not 0 < share <= 1:
            raise ConfigError(
                f"policy {self.name!r}: share is {share}, expected above 0 and at most 1; nothing was started"
            )
        super().__init__(inner)
        self.rule = rule
        self.conflicts = Conflicts()
        self._pauses = Pauses(rule, self.conflicts)
        self.leases = LeaseCounts()
        self._cost = cost
        self._share = share
        self._most_blocks = share * capacity_blocks
        self._inner = inner
        self._offer, self._touch = offer_all(inner), touch_all(inner)
        # Evictable, and not the inner policy's: since when, and under which leases. Owners may change at any time.
        self._kept: dict[Block, tuple[float, list[_Lease]]] = {}
        self._leases: dict[Context, _Lease] = {}
        self._ends: list[tuple[float, int, Context]] = []
        self._programs: dict[str, _Program] = {}
        self._turns: dict[str, _Turn] = {}
        self._arriving: Context | None = None
        self._stamps = 0
        self._now = -math.inf

    def reprice(self, cost: CostModel) -> None:
        self._cost = cost
        super().reprice(cost)

    def retains(self, context: Context) -> bool:
        """Whether the context is under a lease now."""
        return context in self._leases or super().retains(context)

    def keep_s(self, context: Context, tool: str, reload_s: float) -> float:
        """Seconds of the lease of a context whose turn has just called a tool; 0 for none."""
        return self.rule.keep_s(tool, reload_s)

    # Blocks

    def offer(self, block: Block, now: float) -> None:
        self.offer_all([block], now)

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        free: list[Block] = []
        for block in blocks:
            if block in self:
                raise ValueError(f"{block} is evictable already")
            if not self._keep(block, now):
                free.append(block)
        self._offer(free, now)
        self._fit_share(now)

    def _keep(self, block: Block, since: float) -> bool:
        """Put an evictable block under the leases of its owners, if there are any."""
        leased = [lease for owner in block.owners if (lease := self._leases.get(owner))]
        for lease in leased:
            lease.blocks[block] = None
        if leased:
            self._kept[block] = since, leased
        return bool(leased)

    def touch(self, block: Block, now: float) -> None:
        self.touch_all([block], now)

    def touch_all(self, blocks: Sequence[Block], now: float) -> None:
        free = [block for block in blocks if block not in self._kept]
        if len(free) < len(blocks):
            for block in blocks:
                if block in self._kept:
                    self._unkeep(block, now)
        self._touch(free, now)

    def forget(self, block: Block) -> None:
        if block in self._kept:
            self._unkeep(block, self._now)
        else:
            self._inner.forget(block)

    def _unkeep(self, block: Block, now: float) -> None:
        self.leases.idle_block_s += max(now - self._unlist(block), 0.0)

    def _unlist(self, block: Block) -> float:
        """Take a block from under its leases; returns since when it was there."""
        since, leases = self._kept.pop(block)
        for lease in leases:
            del lease.blocks[block]
        return since

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        now = self._clock(now)
        self._expire(now)
        if len(self) - sum(block in self for block in excluded) < need:
            return None
        while len(self._inner) - sum(block in self._inner for block in excluded) < need:
            self._press(now)
        return self._inner.victims(need, excluded, now)

    # Leases

    def _lease(self, context: Context, tool: str, now: float) -> None:
        reload_s = self._cost.run_seconds(0, len(context.chain))
        seconds = self.keep_s(context, tool, reload_s)
        if seconds <= 0:
            self.leases.refused += 1
            return
        self.leases.granted += 1
        self._stamps += 1
        self._leases[context] = _Lease(now + seconds, now, self._stamps)
        self._retentions += 1
        if seconds < math.inf:
            heapq.heappush(self._ends, (now + seconds, self._stamps, context))
        if len(self._ends) > 4 * len(self._leases) + 64:  # mostly of leases that were taken up
            self._ends = [end for end in self._ends if self._runs(end)]
            heapq.heapify(self._ends)

    def _runs(self, end: tuple[float, int, Context]) -> bool:
        """Whether an entry of the heap is that of a lease that still runs."""
        _, stamp, context = end
        lease = self._leases.get(context)
        return lease is not None and lease.stamp == stamp

    def _expire(self, now: float) -> None:
        waiting: list[tuple[float, int, Context]] = []
        while self._ends and self._ends[0][0] < now:
            entry = heapq.heappop(self._ends)
            if not self._runs(entry):
                continue
            context = entry[-1]
            if context.turns:  # its own next turn is queued; a branch's turn is another context's
                waiting.append(entry)
            else:
                self.leases.expired += 1
                self._end(context, now)
        for entry in waiting:
            heapq.heappush(self._ends, entry)

    def _press(self, now: float) -> None:
        """End the lease of the program that arrived latest; of one program's, the one that would last longest."""
        newest = max(self._leases, key=self._newness)
        self.leases.pressed += 1
        self._end(newest, now)

    def _newness(self, context: Context) -> tuple[int, float, int]:
        lease = self._leases[context]
        program = self._programs.get(context.job)
        return (program.place if program else 0, lease.until, lease.stamp)

    def _fit_share(self, now: float) -> None:
        while len(self._kept) > self._most_blocks:
            self._press(now)

    def _end(self, context: Context, now: float) -> None:
        lease = self._leases.pop(context, None)
        if lease is None:
            return
        self._retentions += 1
        free = []
        for block in list(lease.blocks):
            since = self._unlist(block)
            if self._keep(block, since):  # another owner's lease goes on
                continue
            self.leases.idle_block_s += max(now - since, 0.0)
            free.append(block)
        self._offer(free, now)

    # Events

    def observe(self, event: Event, now: float) -> None:
        now = self._clock(now)
        match event:
            case ContextChanged(context, gone):
                self._changed(context, gone, now)
            case TurnArrived():
                self._arrived(event, now)
            case TurnScheduled():
                self._scheduled(event, now)
            case TurnFinished():
                self._finished(event, now)
            case TurnAborted(turn):
                if gone_turn := self._turns.pop(turn, None):
                    self._close(gone_turn.context, now)
            case JobFinished(job) if job in self._programs:
                self._over(self._programs[job])
            case BlocksRestood(blocks):
                self._restand(blocks, now)
            case PoolResized(blocks):
                self._most_blocks = self._share * blocks
                self._fit_share(now)
            case ToolStarted(expected_s=seconds) | RetainAsked(ttl_s=seconds):
                self.conflicts.negative_duration += seconds is not None and not seconds >= 0
        self._inner.observe(event, now)

    def _clock(self, now: float) -> float:
        """Never backward: a lease that began after its end would be nobody's."""
        self.conflicts.backward_time += now < self._now
        self._now = max(self._now, now)
        return self._now

    def _changed(self, context: Context, gone: bool, now: float) -> None:
        if gone:
            self._close(context, now)
            for name in [name for name, turn in self._turns.items() if turn.context is context]:
                del self._turns[name]
            program = self._programs.get(context.job)
            if program:
                program.contexts.discard(context)
                if not program.contexts:
                    del self._programs[context.job]
        elif context.turns:
            self._arriving = context  # the turn itself is told next
        elif context.standing is Standing.ENDED:
            self._close(context, now)

    def _close(self, context: Context, now: float) -> None:
        """Nothing is known any more of when the context returns, if it does."""
        self._pauses.forget(context)
        self.leases.ended += context in self._leases
        self._end(context, now)

    def _arrived(self, event: TurnArrived, now: float) -> None:
        context, self._arriving = self._arriving, None
        if context is None or event.turn not in context.turns or event.turn in self._turns:
            return
        program = self._programs.get(context.job)
        if program is None:
            self._stamps += 1
            program = self._programs[context.job] = _Program(self._stamps)
        program.contexts.add(context)
        if program.over:
            program.over = False
            self.conflicts.turn_after_end += 1
        self.conflicts.concurrent_turns += sum(len(branch.turns) for branch in program.contexts) > 1
        lease = self._leases.get(context)
        if lease and lease.until < now and len(context.turns) == 1:  # it ran out before the turn came
            self.leases.expired += 1
            self._end(context, now)
        away = self._pauses.come_back(context, event.tool, now)
        lost = away and context not in self._leases
        self._turns[event.turn] = _Turn(context, now, lost)

    def _scheduled(self, event: TurnScheduled, now: float) -> None:
        turn = self._turns.get(event.turn)
        if turn is None or turn.scheduled:
            return
        turn.scheduled = True
        if turn.lost:
            self.rule.waited(now - turn.arrived_s)
        if turn.context in self._leases:  # its blocks are the turn's now
            self.leases.taken_up += 1
            self.leases.wasted += event.cached == 0
            self._end(turn.context, now)

    def _finished(self, event: TurnFinished, now: float) -> None:
        turn = self._turns.pop(event.turn, None)
        if turn is None:
            return
        context = turn.context
        if program := self._programs.get(context.job):
            program.turns += 1
            if context.standing is Standing.ENDED:
                self._over(program)
        # Some clients do not say which tool their output will call, only that it is not the last.
        promised = event.last is False and context.standing is not Standing.ENDED
        if not context.turns and (promised or context.standing is Standing.TOOL):
            tool = event.tool or UNNAMED
            self._pauses.leave(context, tool, now)
            self._end(context, now)
            self._lease(context, tool, now)

    def _over(self, program: _Program) -> None:
        if not program.over:
            program.over = True
            self.rule.ended(program.turns)

    def _restand(self, blocks: Iterable[Block], now: float) -> None:
        """These have other owners now; who of them has a lease may have changed with that."""
        freed: list[Block] = []
        for block in blocks:
            if block in self._kept:
                since = self._unlist(block)
                if not self._keep(block, since):
                    self.leases.idle_block_s += now - since
                    freed.append(block)
            elif block in self._inner and any(owner in self._leases for owner in block.owners):
                self._inner.forget(block)
                self._keep(block, now)
        self._offer(freed, now)
        self._fit_share(now)

    # The books

    def counts(self) -> Mapping[str, Mapping[str, float]]:
        """All counters, by group and name."""
        return {"conflicts": asdict(self.conflicts), "leases": asdict(self.leases)}

    def __len__(self) -> int:
        return len(self._inner) + len(self._kept)

    def __contains__(self, block: object) -> bool:
        return block in self._kept or block in self._inner

    def check(self) -> None:
        self._inner.check()
        listed = {(block, lease) for lease in self._leases.values() for block in lease.blocks}
        if listed != {(block, lease) for block, (_, leases) in self._kept.items() for lease in leases}:
            raise CheckFailed(f"{self.name}: {len(listed)} blocks are listed by leases that do not keep them")
        if both := [block for block in self._kept if block in self._inner]:
            raise CheckFailed(f"{self.name}: {both[0]} is kept, and the inner policy's too")
        if len(self._kept) > self._most_blocks:
            raise CheckFailed(f"{self.name}: {len(self._kept)} blocks are kept, at most {self._most_blocks} may be")
        alive = {(context, stamp) for _, stamp, context in self._ends}
        timeless = [c for c, lease in self._leases.items() if lease.until < math.inf and (c, lease.stamp) not in alive]
        if timeless:
            raise CheckFailed(f"{self.name}: nobody ends the lease of {timeless[0].id}")
        if any(turn.context not in self._programs[turn.context.job].contexts for turn in self._turns.values()):
            raise CheckFailed(f"{self.name}: an open turn's context is not its program's")
