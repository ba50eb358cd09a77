"""The residency: what is in memory, whose it is, and what leaves next. The one core of every host."""

from collections.abc import Iterable, Sequence, Set

from agentcache.errors import CheckFailed
from agentcache.model import (
    Block,
    BlocksRestood,
    Context,
    Decision,
    Event,
    JobFinished,
    Key,
    Release,
    Span,
    Standing,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
    spans,
)
from agentcache.policy.base import Policy
from agentcache.policy.working_set import WorkingSetConfig
from agentcache.residency.admission import WorkingSetAdmission
from agentcache.residency.contexts import ContextBook

_STANDING = {Stop.TOOL_USE: Standing.TOOL, Stop.END_TURN: Standing.END_TURN}


class Residency:
    """Joins the contexts that turns make, the blocks that a host holds, and the policy that orders them.

    Two streams come in. *Events* (`observe`) say what jobs do; they may be incomplete, repeated or contradictory, and
    then cost residency, never more: what makes no sense is counted in `ignored_events`. *Block traffic* (`release`,
    `acquire`, `forget`, `victims`) says which blocks are evictable, and must be right. `now` is seconds on one
    monotonic clock.
    """

    def __init__(
        self,
        policy: Policy,
        capacity_blocks: int,
        max_contexts: int = 4096,
        admission: WorkingSetConfig | None = None,
    ) -> None:
        self.policy = policy
        self.capacity_blocks = capacity_blocks
        # A context that fell out of memory long ago costs only bookkeeping: chains may be 16 times the pool.
        self.contexts = ContextBook(max_contexts, max_keys=16 * capacity_blocks)
        self.admission = WorkingSetAdmission(admission, capacity_blocks, self.contexts) if admission else None
        self.ignored_events = 0
        self.evicted_blocks = 0
        self.reused_blocks = 0
        self._turns: dict[str, Context] = {}
        self._releases = 0
        self._evictable: dict[Key, dict[Block, None]] = {}  # copies of one key can coexist
        self._draining: set[Context] = set()  # ended contexts that have lost blocks since the last event

    # Events

    def observe(self, event: Event, now: float) -> list[Decision]:
        """Take in what happened; returns what the host should do about it."""
        decisions: list[Decision] = []
        match event:
            case TurnArrived():
                self._arrived(event, now)
            case TurnScheduled(turn) if self.admission:
                self.admission.scheduled(turn)
            case TurnFinished():
                decisions = self._finished(event, now)
            case TurnAborted(turn):
                self._closed(turn, now)
            case TurnPreempted(turn):
                self.ignored_events += turn not in self._turns
                if self.admission:
                    self.admission.preempted(turn, now)
            case JobFinished(job):
                decisions = self._ended(job, now)
        self.policy.observe(event, now)
        self._purge(now)
        return decisions

    def _arrived(self, event: TurnArrived, now: float) -> None:
        if event.turn in self._turns:
            self.ignored_events += 1
            return
        context = self.contexts.resolve(event)
        context.turns.add(event.turn)
        self._turns[event.turn] = context
        if self.admission:
            self.admission.arrived(event.turn, context, event.keys, event.order_key, now)
        if context.standing is Standing.ENDED:  # it was not the end
            context.standing = Standing.UNKNOWN
            self._restand(context.chain, now)

    def _finished(self, event: TurnFinished, now: float) -> list[Decision]:
        context = self._closed(event.turn, now, len(event.keys))
        if context is None:
            return []
        dropped = self.contexts.rewrite(context, event.keys)
        self.contexts.leave((key for key in dropped if key in self._evictable), Standing.SUPERSEDED)
        context.depth += 1
        context.tool = event.tool
        if event.last or context.standing is Standing.ENDED:  # the job may have ended while its last turn ran
            context.standing = Standing.ENDED
        else:
            context.standing = _STANDING.get(event.stop, Standing.UNKNOWN)
            if event.last is False and context.standing is Standing.UNKNOWN:
                context.standing = Standing.TOOL  # a return is promised, whatever ended the output
        # This turn's own blocks are still referenced; those it shares, or has left behind, may be evictable now.
        self._restand((*dropped, *context.chain), now)
        return [Release(context.job)] if context.standing is Standing.ENDED else []

    def _closed(self, turn: str, now: float, final_blocks: int | None = None) -> Context | None:
        context = self._turns.pop(turn, None)
        if context is None:
            self.ignored_events += 1
            return None
        context.turns.discard(turn)
        context.idle_since = now
        if self.admission:
            self.admission.closed(turn, final_blocks)
        return context

    def _ended(self, job: str, now: float) -> list[Decision]:
        family = self.contexts.of_job(job)
        if not family:
            self.ignored_events += 1
            return []
        for context in family:
            context.standing = Standing.ENDED
            self._restand(context.chain, now)
        if self.admission:
            self.admission.ended()
        self._draining.update(family)
        return [Release(job)]

    def _purge(self, now: float) -> None:
        """Forget ended contexts whose own blocks are gone, and the oldest ones beyond the bounds."""
        for context in self._draining:
            if self._is_drained(context):
                self._close(context, now)
        self._draining.clear()
        while (surplus := self.contexts.excess()) is not None:
            self._close(surplus, now)

    def _is_drained(self, context: Context) -> bool:
        if context.standing is not Standing.ENDED or context.turns or self.contexts.get(context.id) is not context:
            return False
        # From both ends at once: policies evict a chain from its head or from its tail.
        ends = zip(context.chain, reversed(context.chain), strict=True)
        return not any(key in self._evictable and len(self.contexts.owners(key)) == 1 for pair in ends for key in pair)

    def _close(self, context: Context, now: float) -> None:
        for turn in context.turns:
            del self._turns[turn]
            if self.admission:
                self.admission.closed(turn)
        self.contexts.close(context)
        if context.standing is Standing.ENDED:
            self.contexts.leave((key for key in context.chain if key in self._evictable), Standing.ENDED)
        self._restand(context.chain, now)

    def _restand(self, keys: Iterable[Key], now: float) -> None:
        """Write the standing of evictable blocks anew, and tell the policy of those that it changed for."""
        keys = [key for key in keys if key in self._evictable]
        changed = []
        for key, standing in zip(keys, self.contexts.standings(keys), strict=True):
            for block in self._evictable[key]:
                if block.standing is not standing:
                    block.standing = standing
                    changed.append(block)
        if changed:
            self.policy.observe(BlocksRestood(tuple(changed)), now)

    # Admission

    def admit(self, now: float) -> list[Decision]:
        """Apply the rule of admission; returns the jobs that joined or are held since it was last applied."""
        return self.admission.decide(now) if self.admission else []

    def may_run(self, turn: str) -> bool:
        """Whether admission lets a queued turn run, as of the last `admit`."""
        return self.admission is None or self.admission.may_run(turn)

    # Block traffic

    def release(self, blocks: Iterable[Block], now: float) -> None:
        """The last reference to each of these is gone. They come in the host's order: a turn's tail first."""
        self._releases += 1
        blocks = list(blocks)
        for block, standing in zip(blocks, self.contexts.standings(block.key for block in blocks), strict=True):
            block.release = self._releases
            block.released_at = now
            block.standing = standing
            self.policy.offer(block, now)
            self._evictable.setdefault(block.key, {})[block] = None

    def acquire(self, blocks: Iterable[Block], now: float) -> None:
        """These evictable blocks are used again."""
        for block in blocks:
            self._take_out(block)
            self.policy.touch(block, now)
            self.reused_blocks += 1

    def forget(self, blocks: Iterable[Block]) -> None:
        """The host has dropped the content of these evictable blocks by itself."""
        for block in blocks:
            self.policy.forget(block)
            self._gone(block)

    def victims(self, need: int, now: float, excluded: Set[Block] = frozenset()) -> list[Block] | None:
        """Take out exactly `need` evictable blocks to overwrite; None, and nothing changed, if there are fewer."""
        chosen = self.policy.victims(need, excluded, now)
        if chosen is None:
            return None
        for block in chosen:
            self._gone(block)
        self.evicted_blocks += len(chosen)
        return chosen

    def _take_out(self, block: Block) -> None:
        copies = self._evictable[block.key]
        del copies[block]
        if not copies:
            del self._evictable[block.key]

    def _gone(self, block: Block) -> None:
        self._take_out(block)
        if block.key not in self._evictable:
            self.contexts.forget_key(block.key)
            if block.standing is Standing.ENDED:
                self._draining.update(self.contexts.owners(block.key))

    # Looking

    def __len__(self) -> int:
        """Evictable blocks now."""
        return len(self.policy)

    def __contains__(self, block: object) -> bool:
        return block in self.policy

    def users(self, key: Key) -> int:
        """How many contexts share an evictable block; 0 if it is not evictable."""
        return len(self.contexts.owners(key)) if key in self._evictable else 0

    def spans(self, context_id: str) -> Sequence[Span]:
        """The evictable spans of a context, head first; empty for a context that is not known."""
        context = self.contexts.get(context_id)
        return list(spans(context, self.users)) if context else []

    def check(self) -> None:
        """Recount everything; raise `CheckFailed` with the equation that does not hold."""
        self.policy.check()
        self.contexts.check()
        if self.admission:
            self.admission.check()
        filed = [block for copies in self._evictable.values() for block in copies]
        if len(filed) != len(self.policy):
            raise CheckFailed(f"{len(filed)} blocks are filed as evictable, the policy orders {len(self.policy)}")
        if len(filed) > self.capacity_blocks:
            raise CheckFailed(f"{len(filed)} evictable blocks > capacity {self.capacity_blocks}")
        for block, standing in zip(filed, self.contexts.standings(block.key for block in filed), strict=True):
            if block not in self.policy:
                raise CheckFailed(f"{block} is filed as evictable, but the policy does not have it")
            if block.standing is not standing:
                raise CheckFailed(f"{block} stands as {block.standing.value}, its owners as {standing.value}")
        running = {turn for context in self.contexts for turn in context.turns}
        if running != self._turns.keys():
            raise CheckFailed(f"contexts have {len(running)} turns open, the residency {len(self._turns)}")
