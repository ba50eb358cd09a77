"""A retention layer over any policy: what is expected back soon goes last, for a time that pays (arXiv 2511.02230)."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Set

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import (
    Block,
    BlocksRestood,
    Context,
    ContextChanged,
    Event,
    Standing,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy.base import Policy
from agentcache.policy.layer import Layer

LEARNT = -1.0
SAMPLES = 256  # pauses remembered a tool
FEWEST = 10  # with fewer of a tool, all tools together speak
TOOLS = 64  # told apart; those after them are one
COLD_S = 2.0  # before anything is known


class Ttl(Layer):
    """Two copies of a policy: one orders the blocks under a lease, the other the rest, which goes first.

    A context gets a lease when its turn asks for a tool. Its length is `tau_s` seconds (0 is never), or where that is
    -1 the tau that pays most by what pauses after that tool were seen,

        argmax over {0} and the pauses seen of  P(pause <= tau) (queueing + rebuild seconds) - tau

    with the mean queueing time of turns and the rebuild of the whole context. Leases hold at most `share` of the pool:
    beyond, the context that came last loses its own. Under pressure leased blocks go after all others: nothing is
    pinned.
    """

    name = "ttl"

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        inner: Callable[[], Policy],
        *,
        tau_s: float = LEARNT,
        share: float = 0.5,
    ) -> None:
        if not (tau_s >= 0 or tau_s == LEARNT) or not 0 < share <= 1:
            raise ConfigError(
                f"policy {self.name!r}: tau_s is {tau_s} and share {share}, expected seconds >= 0 (or -1, learnt) "
                "and a share above 0 and at most 1; nothing was started"
            )
        self._cost = cost
        self._tau_s = tau_s
        self._most_blocks = share * capacity_blocks
        self._free, self._kept = inner(), inner()
        super().__init__(self._free, self._kept)
        self._leases: dict[Context, float] = {}  # until when, seconds; in the order in which contexts came
        self._ends: list[tuple[float, int, Context]] = []
        self._blocks: dict[Context, dict[Block, None]] = {}  # evictable ones, of contexts with a lease
        self._keepers: dict[Block, list[Context]] = {}  # the same the other way round: owners may change at any time
        self._left: dict[Context, tuple[str, float]] = {}  # paused contexts: the tool that runs, and since when
        self._pauses: dict[str, deque[float]] = {}
        self._queued: dict[str, float] = {}
        self._waits: deque[float] = deque(maxlen=SAMPLES)
        self._sequence = 0

    def reprice(self, cost: CostModel) -> None:
        self._cost = cost
        super().reprice(cost)

    def retains(self, context: Context) -> bool:
        """Whether the context is under a lease now."""
        return context in self._leases or super().retains(context)

    # Blocks

    def offer(self, block: Block, now: float) -> None:
        if block in self:
            raise ValueError(f"{block} is evictable already")
        (self._kept if self._list(block) else self._free).offer(block, now)

    def touch(self, block: Block, now: float) -> None:
        self._home(block).touch(block, now)
        self._unlist(block)

    def forget(self, block: Block) -> None:
        self._home(block).forget(block)
        self._unlist(block)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        self._expire(now)
        if len(self) - sum(block in self for block in excluded) < need:
            return None
        free = min(need, len(self._free) - sum(block in self._free for block in excluded))
        chosen = self._free.victims(free, excluded, now) or []
        if len(chosen) < need:
            leased = self._kept.victims(need - len(chosen), excluded, now)
            assert leased is not None, f"{need} asked of {len(self)} evictable blocks"
            for block in leased:
                self._unlist(block)
            chosen += leased
        return chosen

    def _home(self, block: Block) -> Policy:
        return self._kept if block in self._kept else self._free

    def _list(self, block: Block) -> bool:
        """Put a block under the leases of its owners, if there are any."""
        if leased := [context for context in block.owners if context in self._leases]:
            self._keepers[block] = leased
            for context in leased:
                self._blocks[context][block] = None
        return bool(leased)

    def _unlist(self, block: Block) -> None:
        for context in self._keepers.pop(block, ()):
            self._blocks[context].pop(block)

    # Leases

    def _lease(self, context: Context, now: float) -> None:
        tool = self._told_apart(context.tool or context.standing.value)
        self._left[context] = (tool, now)
        seconds = self._tau_s if self._tau_s != LEARNT else self._best(tool, context)
        if seconds > 0:
            self._leases[context] = now + seconds
            self._retentions += 1
            self._blocks[context] = {}
            self._sequence += 1
            heapq.heappush(self._ends, (now + seconds, self._sequence, context))
            if len(self._ends) > 4 * len(self._leases) + 64:  # most leases end before their time, by a return
                self._ends = [end for end in self._ends if self._leases.get(end[2]) == end[0]]
                heapq.heapify(self._ends)
            while len(self._leases) > 1 and len(self._kept) > self._most_blocks:
                self._end(next(reversed(self._leases)), now)

    def _told_apart(self, tool: str) -> str:
        """Clients name tools as they like: those beyond the first `TOOLS` are one."""
        return tool if tool in self._pauses or len(self._pauses) < TOOLS else "other"

    def _best(self, tool: str, context: Context) -> float:
        pauses: Iterable[float] = self._pauses.get(tool, ())
        if len(self._pauses.get(tool, ())) < FEWEST:
            pauses = [pause for seen in self._pauses.values() for pause in seen]
        ordered = sorted(pauses)
        if len(ordered) < FEWEST:
            return COLD_S
        queueing_s = sum(self._waits) / len(self._waits) if self._waits else 0.0
        worth_s = queueing_s + self._cost.run_seconds(0, len(context.chain))
        best_s, most = 0.0, 0.0
        for rank, tau_s in enumerate(ordered, 1):
            gain = rank / len(ordered) * worth_s - tau_s
            if gain > most:
                best_s, most = tau_s, gain
        return best_s

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            until, _, context = heapq.heappop(self._ends)
            if self._leases.get(context) == until:
                self._end(context, now)

    def _end(self, context: Context, now: float) -> None:
        self._retentions += self._leases.pop(context, None) is not None
        for block in list(self._blocks.get(context, ())):
            self._unlist(block)
            if not self._list(block):
                self._kept.forget(block)
                self._free.offer(block, now)
        self._blocks.pop(context, None)

    def observe(self, event: Event, now: float) -> None:
        match event:
            case TurnArrived(turn):
                self._queued[turn] = now
            case TurnScheduled(turn) if turn in self._queued:
                self._waits.append(now - self._queued.pop(turn))
            case TurnAborted(turn) | TurnFinished(turn):  # some hosts do not say that turns are scheduled
                self._queued.pop(turn, None)
            case ContextChanged(context, gone):
                if left := self._left.pop(context, None):
                    tool, since = left
                    if context.turns:
                        self._pauses.setdefault(self._told_apart(tool), deque(maxlen=SAMPLES)).append(now - since)
                self._end(context, now)
                if not gone and not context.turns and context.standing is Standing.TOOL:
                    self._lease(context, now)
            case BlocksRestood(blocks):
                self._move([block for block in blocks if block in self], now)
        self._free.observe(event, now)
        self._kept.observe(event, now)

    def _move(self, blocks: Iterable[Block], now: float) -> None:
        """The owners of these have changed, and who of them has a lease."""
        for block in blocks:
            home = self._home(block)
            self._unlist(block)
            goal = self._kept if self._list(block) else self._free
            if goal is not home:
                home.forget(block)
                goal.offer(block, now)

    # The books

    def __len__(self) -> int:
        return len(self._free) + len(self._kept)

    def __contains__(self, block: object) -> bool:
        return block in self._free or block in self._kept

    def check(self) -> None:
        self._free.check()
        self._kept.check()
        listed = {(block, context) for context, blocks in self._blocks.items() for block in blocks}
        if listed != {(block, context) for block, keepers in self._keepers.items() for context in keepers}:
            raise CheckFailed(f"{self.name}: {len(listed)} blocks are listed by leases that do not keep them")
        if len(self._keepers) != len(self._kept) or any(block not in self._kept for block in self._keepers):
            raise CheckFailed(f"{self.name}: {len(self._keepers)} blocks under a lease, {len(self._kept)} are kept")
        if self._blocks.keys() != self._leases.keys():
            raise CheckFailed(f"{self.name}: {len(self._leases)} leases, {len(self._blocks)} lists of blocks")
