"""The residency: what is in memory, whose it is, and what leaves next. The one core of every host."""

from collections.abc import Iterable, Sequence, Set

from agentcache.cost import CostModel
from agentcache.cost.loads import LoadPrice, TieredCost, spared_share
from agentcache.errors import CheckFailed
from agentcache.model import (
    OVER,
    Block,
    BlocksRestood,
    BlocksStored,
    Context,
    ContextChanged,
    Decision,
    Event,
    Hold,
    JobFinished,
    Key,
    PoolResized,
    Release,
    Standing,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.policy.base import FollowsPrices, FollowsSurvival, Policy, Retains, offer_all, touch_all
from agentcache.policy.survival import Survival
from agentcache.residency.admission import WorkingSetAdmission
from agentcache.residency.contexts import ContextBook
from agentcache.residency.standings import released, restood
from agentcache.residency.tier import Tier

LENT = 0.5
"""Share of a tier that live jobs may count on, where loads take no time."""

_STANDING = {Stop.TOOL_USE: Standing.TOOL, Stop.END_TURN: Standing.END_TURN}


class Residency:
    """Joins the contexts that turns make, the blocks that a host holds, and the policy that orders them.

    Two streams come in. *Events* (`observe`) say what jobs do; they may be incomplete, repeated or contradictory, and
    then cost residency, never more: what makes no sense is counted in `ignored_events`. *Block traffic* (`release`,
    `acquire`, `forget`, `victims`) says which blocks are evictable, and must be right. `now` is seconds on one
    monotonic clock. `footing` is what contexts take of the `capacity_blocks`, as far as admission counts.

    With a `tier` below, blocks are in memory while either level has them: the same contexts own them in both, and each
    level has its own policy, which hears of the same events.
    """

    def __init__(
        self,
        policy: Policy,
        capacity_blocks: int,
        max_contexts: int = 4096,
        admission: WorkingSetConfig | None = None,
        footing: Footing = ONE_GROUP,
        tier: Tier | None = None,
    ) -> None:
        self.policy = policy
        self.capacity_blocks = capacity_blocks
        self.tier = tier
        # A context that fell out of memory long ago costs only bookkeeping: chains may be 16 times what memory holds.
        held_blocks = capacity_blocks + (tier.capacity_blocks if tier else 0)
        self.contexts = ContextBook(max_contexts, max_keys=16 * held_blocks)
        self.survival = Survival()
        for one in (policy, tier.policy) if tier else (policy,):
            if isinstance(one, FollowsSurvival):
                one.follow(self.survival)
        if tier:
            tier.owned, tier.on_gone = self.contexts.owned, self._forget
        self.admission: WorkingSetAdmission | None = None
        if admission:
            self.admission = WorkingSetAdmission(admission, capacity_blocks, self.contexts, self.survival, footing)
            if isinstance(policy, Retains):
                self.admission.is_retained = policy.retains
                self.admission.retained_version = policy.retained_version
        self.ignored_events = 0
        self.evicted_blocks = 0
        self.reused_blocks = 0
        self._turns: dict[str, Context] = {}
        self._releases = 0
        self._evictable: dict[Key, Block] = {}
        self._twins: dict[Key, list[Block]] = {}  # further copies of a key: they are rare
        self._offer_all = offer_all(policy)
        self._touch_all = touch_all(policy)
        self._draining: set[Context] = set()  # ended contexts that have lost blocks since the last event

    # Events

    def observe(self, event: Event, now: float) -> list[Decision]:
        """Take in what happened; returns the jobs that are over by it."""
        decisions: list[Decision] = []
        match event:
            case TurnArrived():
                self._arrived(event, now)
            case TurnScheduled(turn, tokens, cached) if self.admission:
                self.admission.scheduled(turn, tokens, cached, now)
            case TurnFinished():
                decisions = self._finished(event, now)
            case TurnAborted(turn):
                if context := self._closed(turn, now):
                    self._rest(context, now)
            case TurnPreempted(turn):
                self.ignored_events += turn not in self._turns
                if self.admission:
                    self.admission.preempted(turn, now)
            case JobFinished(job):
                decisions = self._ended(job, now)
            case BlocksStored(keys):
                if self.admission:
                    self.admission.stored(keys)
                if self.tier:
                    self.tier.rise(keys, now)
            case PoolResized(blocks):
                self.capacity_blocks = blocks
                if self.admission:
                    self.admission.resized(blocks)
        self._tell(event, now)
        self._purge(now)
        return decisions

    def _tell(self, event: Event, now: float) -> None:
        self.policy.observe(event, now)
        if self.tier:
            self.tier.observe(event, now)

    def _arrived(self, event: TurnArrived, now: float) -> None:
        if event.turn in self._turns:
            self.ignored_events += 1
            return
        context = self.contexts.resolve(event)
        if not context.turns:
            self.survival.returned(context, now)
        context.turns.add(event.turn)
        self._turns[event.turn] = context
        if self.admission:
            self.admission.arrived(event.turn, context, event.keys, event.order_key, now)
            context.held = self.admission.holds(context.job)
        if context.standing is Standing.ENDED:  # it was not the end
            self._stand(context, Standing.UNKNOWN, now)
        self._rewrite(context, event.keys, now)
        self._tell(ContextChanged(context), now)

    def _rewrite(self, context: Context, keys: tuple[Key, ...], now: float) -> None:
        """A turn shows the context's chain; what it no longer contains is superseded, and demoted."""
        before = len(context.chain)
        dropped, revived = self.contexts.rewrite(context, keys)
        kept = before - len(dropped)
        for remnant in revived:
            self.survival.returned(remnant, now)
            self._tell(ContextChanged(remnant, gone=True), now)
        self._leave(dropped, Standing.SUPERSEDED, context.idle_since, now)
        self._restand((*dropped, *keys), now, range(len(dropped), len(dropped) + kept))

    def _leave(self, keys: Iterable[Key], standing: Standing, idle_since: float, now: float) -> None:
        in_memory = (key for key in keys if self._is_held(key))
        if remnant := self.contexts.leave(in_memory, standing, idle_since):
            if standing is Standing.SUPERSEDED:
                self.survival.paused(remnant, idle_since)
            self._tell(ContextChanged(remnant), now)

    def _finished(self, event: TurnFinished, now: float) -> list[Decision]:
        context = self._closed(event.turn, now, len(event.keys))
        if context is None:
            return []
        context.depth += 1
        context.tool = event.tool
        if event.last or context.standing is Standing.ENDED:  # the job may have ended while its last turn ran
            standing = Standing.ENDED
        else:
            standing = _STANDING.get(event.stop, Standing.UNKNOWN)
            if event.last is False and standing is Standing.UNKNOWN:
                standing = Standing.TOOL  # a return is promised, whatever ended the output
        self.contexts.stand(context, standing)
        # This turn's own blocks are still referenced; those it shares, or has left behind, may be evictable now.
        self._rewrite(context, event.keys, now)
        self._rest(context, now)
        return [Release(context.job)] if context.standing is Standing.ENDED else []

    def _rest(self, context: Context, now: float) -> None:
        """A turn of the context is over: if it was the only one, the context waits."""
        if context.standing is Standing.ENDED:
            self.survival.ended(context)
        elif not context.turns:
            self.survival.paused(context, now)
        self._tell(ContextChanged(context), now)

    def _closed(self, turn: str, now: float, final_blocks: int | None = None) -> Context | None:
        context = self._turns.pop(turn, None)
        if context is None:
            self.ignored_events += 1
            return None
        context.turns.discard(turn)
        context.idle_since = now
        if self.admission:
            self.admission.closed(turn, now, final_blocks)
        return context

    def _ended(self, job: str, now: float) -> list[Decision]:
        family = self.contexts.of_job(job)
        if not family:
            self.ignored_events += 1
            return []
        for context in family:
            self._stand(context, Standing.ENDED, now)
            self._rest(context, now)
        if self.admission:
            self.admission.ended(job)
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
        own = context.seat.keys if context.seat is not None and len(context.seat) == 1 else ()
        # From both ends at once: policies evict a chain from its head or from its tail.
        return not any(self._is_held(key) for ends in zip(own, reversed(own), strict=True) for key in ends)

    def _close(self, context: Context, now: float) -> None:
        for turn in context.turns:
            del self._turns[turn]
            if self.admission:
                self.admission.closed(turn, now)
        self.contexts.close(context)
        if self.admission:
            self.admission.forgot(context)
        self.survival.lost(context, now)
        if context.standing is Standing.ENDED:
            self._leave(context.chain, Standing.ENDED, context.idle_since, now)
        self._restand(context.chain, now)
        self._tell(ContextChanged(context, gone=True), now)

    def _stand(self, context: Context, standing: Standing, now: float) -> None:
        self.contexts.stand(context, standing)
        self._restand(context.chain, now, range(len(context.chain)))

    def _restand(self, keys: Sequence[Key], now: float, kept: range = range(0)) -> None:
        """Write standing and owners of evictable blocks anew, and tell the policy of those that they changed for.

        Those of the keys at `kept` are of the same contexts as before.
        """
        if self.tier:
            self.tier.restand(keys, now, kept)
        if changed := restood(keys, self._evictable, self._copies, self.contexts.owned, kept):
            self.policy.observe(BlocksRestood(changed), now)

    # Prices

    def price_loads(self, cost: CostModel, price: LoadPrice) -> None:
        """What rebuilds and loads from the tier take from now on.

        What leaves the device costs a load at most, what leaves the tier a rebuild. Admission counts the tier as room
        as far as loads are sooner, and `LENT` of it: the rest is for those who have given up their places.
        """
        if self.tier is None:
            return
        if isinstance(self.policy, FollowsPrices):
            self.policy.reprice(TieredCost(cost.profile, cost.block_size, price))
        if isinstance(self.tier.policy, FollowsPrices):
            self.tier.policy.reprice(cost)
        if self.admission:
            self.admission.lend(int(LENT * spared_share(cost, price) * self.tier.capacity_blocks))

    # Admission

    def admit(self, now: float) -> list[Decision]:
        """Apply the rule of admission; returns the jobs that joined or are held since it was last applied."""
        decisions = self.admission.decide(now) if self.admission else []
        for decision in decisions:
            for context in self.contexts.of_job(decision.job):
                self._hold(context, isinstance(decision, Hold), now)
        return decisions

    def _hold(self, context: Context, held: bool, now: float) -> None:
        """Turns of the context's job wait from now on, or may run; both levels hear of it."""
        if context.held is not held:
            context.held = held
            self._tell(ContextChanged(context), now)

    def may_run(self, turn: str) -> bool:
        """Whether admission lets a queued turn run, as of the last `admit`."""
        return self.admission is None or self.admission.may_run(turn)

    def rank(self, turn: str) -> tuple[float, ...]:
        """The place of a queued turn in the order of admission, lower first; ties are the host's own to break."""
        return self.admission.rank(turn) if self.admission else ()

    def stalled(self) -> None:
        """Nothing runs although turns are queued: the next `admit` lets one of those that are held run."""
        if self.admission:
            self.admission.stalled()

    # Block traffic

    def release(self, blocks: Iterable[Block], now: float) -> None:
        """The last reference to each of these is gone. They come in the host's order: a turn's tail first."""
        self._releases += 1
        blocks = list(blocks)
        keys = [block.key for block in blocks]
        released(blocks, keys, self.contexts.owned, self._releases, now)
        first = list(map(self._evictable.setdefault, keys, blocks))
        if first != blocks:
            for block, found in zip(blocks, first, strict=True):
                if block is not found:
                    self._twins.setdefault(block.key, []).append(block)
        self._offer_all(blocks, now)

    def acquire(self, blocks: Iterable[Block], now: float) -> None:
        """These evictable blocks are used again."""
        blocks = list(blocks)
        self._take_out(blocks)
        self._touch_all(blocks, now)
        self.reused_blocks += len(blocks)

    def forget(self, blocks: Iterable[Block]) -> None:
        """The host has dropped the content of these evictable blocks by itself."""
        for block in blocks:
            self.policy.forget(block)
            self._gone([block], block.released_at)
            if self.tier:
                self.tier.fall([block.key], block.released_at)

    def withdrawn(self, keys: Iterable[Key], now: float) -> None:
        """Blocks that are not evictable, for they are in use, no longer bear these keys."""
        keys = list(keys)
        if self.admission:
            self.admission.evicted(keys)
        if self.tier:
            self.tier.fall(keys, now)

    def victims(self, need: int, now: float, excluded: Set[Block] = frozenset()) -> list[Block] | None:
        """Take out exactly `need` evictable blocks to overwrite; None, and nothing changed, if there are fewer."""
        chosen = self.policy.victims(need, excluded, now)
        if chosen is not None:
            self._gone(chosen, now)
            self.evicted_blocks += len(chosen)
        return chosen

    def _gone(self, blocks: Iterable[Block], now: float) -> None:
        """These are out of memory: remnants and ended contexts may be forgotten with the last of theirs."""
        self._take_out(blocks)
        if self.admission:
            self.admission.evicted(block.key for block in blocks)
        self._forget(blocks, now)

    def _is_held(self, key: Key) -> bool:
        """Whether a block is evictable, or below."""
        return key in self._evictable or (self.tier is not None and key in self.tier)

    def _forget(self, blocks: Iterable[Block], now: float) -> None:
        """These are gone from a level: with the last of its blocks in either one a remnant is forgotten."""
        for block in blocks:
            if block.standing not in OVER or self._is_held(block.key):
                continue
            if remnant := self.contexts.forget_key(block.key):
                self.survival.lost(remnant, now)
                self._tell(ContextChanged(remnant, gone=True), now)
            if block.standing is Standing.ENDED:  # who goes on behind loses blocks of its own first, or has none
                self._draining.update(self.contexts.owners(block.key).seated)

    def _take_out(self, blocks: Iterable[Block]) -> None:
        evictable, twins = self._evictable, self._twins
        for block in blocks:
            key = block.key
            if key not in twins:
                del evictable[key]
                continue
            copies = self._copies(key)
            copies.remove(block)
            evictable[key] = copies[0]
            twins[key] = copies[1:]
            if len(copies) == 1:
                del twins[key]

    def _copies(self, key: Key) -> list[Block]:
        return [self._evictable[key], *self._twins.get(key, ())] if key in self._evictable else []

    # Looking

    def context_of(self, turn: str) -> Context | None:
        """The context of an open turn."""
        return self._turns.get(turn)

    def __len__(self) -> int:
        """Evictable blocks now."""
        return len(self.policy)

    def __contains__(self, block: object) -> bool:
        return block in self.policy

    def users(self, key: Key) -> int:
        """How many contexts share an evictable block; 0 if it is not evictable."""
        return len(self.contexts.owners(key)) if key in self._evictable else 0

    def check(self) -> None:
        """Recount everything; raise `CheckFailed` with the equation that does not hold."""
        self.policy.check()
        self.contexts.check()
        self.survival.check()
        if self.admission:
            self.admission.check()
            if wrong := [
                one.id for one in self.contexts if one.turns and one.held is not self.admission.holds(one.job)
            ]:
                raise CheckFailed(f"whether turns of contexts {wrong} are held is not as admission says")
        filed = [block for key in self._evictable for block in self._copies(key)]
        if len(filed) != len(self.policy):
            raise CheckFailed(f"{len(filed)} blocks are filed as evictable, the policy orders {len(self.policy)}")
        if self.tier:
            self.tier.check()
        if len(filed) > self.capacity_blocks:
            raise CheckFailed(f"{len(filed)} evictable blocks > capacity {self.capacity_blocks}")
        if not self._twins.keys() <= self._evictable.keys():
            raise CheckFailed("further copies are filed of keys of which there is no first one")
        for block in filed:
            standing = self.contexts.owners(block.key).standing
            if block not in self.policy:
                raise CheckFailed(f"{block} is filed as evictable, but the policy does not have it")
            if block.standing is not standing:
                raise CheckFailed(f"{block} stands as {block.standing.value}, its owners as {standing.value}")
            if block.owners is not self.contexts.owners(block.key):
                raise CheckFailed(f"{block} does not have the owners that the book says")
        running = {turn for context in self.contexts for turn in context.turns}
        if running != self._turns.keys():
            raise CheckFailed(f"contexts have {len(running)} turns open, the residency {len(self._turns)}")
