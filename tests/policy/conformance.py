"""What every policy owes its host: a state machine against the plainest model, a set of evictable blocks."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import (
    NOBODY,
    Block,
    BlocksRestood,
    Context,
    ContextChanged,
    Event,
    JobFinished,
    Owners,
    PoolResized,
    Standing,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.policy import Policy, make_policy
from agentcache.policy.base import FollowsPrices, FollowsSurvival, Foresees, Retains, offer_all, touch_all
from agentcache.policy.survival import Survival
from agentcache.residency.tree import OwnersTree
from agentcache.vllm_plugin.link.leases import ServiceLeases

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)
BLOCKS = 24
CHAINS = (("all", "two", "first"), ("all", "two", "second"), ("all", "third"))
"""Contexts, as those who have the blocks at these places."""
SERVICE = "service+"
"""Stands before a spec for the leases of the residency service, which no spec asks for."""

NUMBERS = st.sets(st.integers(0, BLOCKS - 1), max_size=8)
CONTEXTS = st.integers(0, len(CHAINS) - 1)
PLACES = st.sampled_from(["all", "two", "first", "second", "third", "nobody's"])


def build(spec: str, cost: CostModel = COST, blocks: int = BLOCKS) -> Policy:
    """A policy by its spec; `service+` in front puts it under the service's leases."""
    if spec.startswith(SERVICE):
        return ServiceLeases(make_policy(spec.removeprefix(SERVICE), cost, blocks))
    return make_policy(spec, cost, blocks)


class Conformance(RuleBasedStateMachine):
    """Drives three instances of one policy, by `spec`, over the same blocks of one host.

    Two are driven alike and hold the same blocks at once: they must choose alike. The third, `other`, has blocks that
    these two do not have, as the copies in a layer have: whatever one knows of a block is no other's business.
    """

    spec: str

    @initialize()
    def start(self) -> None:
        self.survival = Survival()
        self.policies = [build(self.spec) for _ in range(3)]
        for policy in self.policies:
            if isinstance(policy, Foresees):
                policy.foresee("future", {f"key{number}": [10.0 * number, 4000.0] for number in range(0, BLOCKS, 2)})
                policy.foresee("pauses", {f"context{i}": [3.0 * i, None] for i in range(len(CHAINS))})
            if isinstance(policy, FollowsSurvival):
                policy.follow(self.survival)
        *self.pair, self.other = self.policies
        self.blocks = [Block(number, f"key{number}", number % 8) for number in range(BLOCKS)]
        self.written: dict[Block, Any] = {}
        for block in self.blocks:
            self.write(block)
        self.contexts = [Context(f"context{i}", f"job{i // 2}") for i in range(len(CHAINS))]
        self.tree = OwnersTree()
        for context, chain in zip(self.contexts, CHAINS, strict=True):
            self.tree.move(context, chain)
        self.places: dict[Block, str] = {}
        self.open: dict[str, Context | None] = {}
        self.evictable: set[int] = set()
        self.lent: set[int] = set()  # the other's
        self.retained: dict[Policy, tuple[int, dict[Context, bool]]] = {}
        self.now = 0.0
        self.releases = self.turns = 0

    def write(self, block: Block, **fields: Any) -> None:
        """Fields of a block are its host's to write."""
        for name, value in fields.items():
            setattr(block, name, value)
        self.written[block] = _fields(block)

    def owned(self, block: Block, place: str) -> Owners:
        """The owners of a block that is at this place of chains."""
        self.places[block] = place
        return self.tree.at.get(place, NOBODY)

    def observe(self, event: Event) -> None:
        for policy in self.policies:
            policy.observe(event, self.now)

    # Blocks

    @rule(seconds=st.sampled_from([0.0, 0.1, 5.0, 60.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(numbers=NUMBERS, standing=st.sampled_from(Standing), place=PLACES, at_once=st.booleans())
    def offer(self, numbers: set[int], standing: Standing, place: str, at_once: bool) -> None:
        blocks = self.release(numbers - self.evictable - self.lent, standing, place)
        for policy in self.pair:
            if at_once:
                offer_all(policy)(blocks, self.now)
            else:
                for block in blocks:
                    policy.offer(block, self.now)
        self.evictable |= {block.id for block in blocks}

    @rule(numbers=NUMBERS, standing=st.sampled_from(Standing), place=PLACES)
    def lend(self, numbers: set[int], standing: Standing, place: str) -> None:
        for block in self.release(numbers - self.evictable - self.lent, standing, place):
            self.other.offer(block, self.now)
            self.lent.add(block.id)

    def release(self, numbers: set[int], standing: Standing, place: str) -> list[Block]:
        self.releases += 1
        blocks = [self.blocks[number] for number in sorted(numbers, key=lambda n: (-self.blocks[n].index, n))]
        for block in blocks:
            owners = self.owned(block, place)
            self.write(block, release=self.releases, released_at=self.now, standing=standing, owners=owners)
        return blocks

    @precondition(lambda self: self.evictable)
    @rule(data=st.data(), used=st.booleans(), at_once=st.booleans())
    def leave(self, data: st.DataObject, used: bool, at_once: bool) -> None:
        numbers = data.draw(st.sets(st.sampled_from(sorted(self.evictable)), min_size=1))
        blocks = [self.blocks[number] for number in sorted(numbers)]
        for policy in self.pair:
            if used and at_once:
                touch_all(policy)(blocks, self.now)
                continue
            for block in blocks:
                if used:
                    policy.touch(block, self.now)
                else:
                    policy.forget(block)
        self.evictable -= numbers

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.lent)))
        self.other.touch(self.blocks[number], self.now)
        self.lent.discard(number)

    @rule(need=st.integers(0, BLOCKS), excluded=st.sets(st.integers(0, BLOCKS - 1), max_size=6))
    def evict(self, need: int, excluded: set[int]) -> None:
        kept = {self.blocks[number] for number in excluded}
        first, second = (_ids(policy.victims(need, kept, self.now)) for policy in self.pair)
        assert first == second, "the same calls must have the same victims"
        self.evictable -= self.are_victims(first, need, self.evictable - excluded)

    @rule(need=st.integers(0, 4))
    def evict_lent(self, need: int) -> None:
        ids = _ids(self.other.victims(need, frozenset(), self.now))
        self.lent -= self.are_victims(ids, need, self.lent)

    @staticmethod
    def are_victims(ids: list[int] | None, need: int, of: set[int]) -> set[int]:
        if ids is None:
            assert len(of) < need, "there were enough"
            return set()
        assert len(ids) == len(set(ids)) == need
        assert set(ids) <= of
        return set(ids)

    @rule(numbers=st.sets(st.integers(0, BLOCKS - 1)), standing=st.sampled_from(Standing), place=PLACES)
    def restand(self, numbers: set[int], standing: Standing, place: str) -> None:
        """Everybody hears of all: a block that is not one's own is to be ignored."""
        self._restand(numbers, lambda block: {"standing": standing, "owners": self.owned(block, place)})

    def _restand(self, numbers: set[int], change: Callable[[Block], dict[str, Any]]) -> None:
        changed = [self.blocks[number] for number in sorted(numbers & (self.evictable | self.lent))]
        for block in changed:
            self.write(block, **change(block))
        self.observe(BlocksRestood(tuple(changed)))

    def _seat(self, who: int, here: bool) -> None:
        """A context takes the places of its chain, or leaves them."""
        self.tree.move(self.contexts[who], CHAINS[who] if here else ())
        at = {block.id for block, place in self.places.items() if place in CHAINS[who]}
        self._restand(at, lambda block: {"owners": self.owned(block, self.places[block])})

    # Turns

    @rule(numbers=st.lists(st.integers(0, BLOCKS - 1)), who=st.none() | CONTEXTS)
    def arrive(self, numbers: list[int], who: int | None) -> None:
        self.turns += 1
        turn = f"turn{self.turns}"
        context = None if who is None else self.contexts[who]
        self.open[turn] = context
        if context:
            self.survival.returned(context, self.now)
            context.turns.add(turn)
            if context.standing is Standing.ENDED:
                self.tree.stand(context, Standing.UNKNOWN)
            if context.seat is None:
                self._seat(self.contexts.index(context), here=True)
            self.observe(ContextChanged(context))
        keys = tuple(f"key{number}" for number in numbers)
        self.observe(TurnArrived(turn, keys, context and context.job, context and context.id))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(1, 64), preempted=st.booleans())
    def schedule(self, data: st.DataObject, tokens: int, preempted: bool) -> None:
        turn = data.draw(st.sampled_from(sorted(self.open)))
        self.observe(TurnScheduled(turn, tokens, 0, 0, 0, ((0, tokens),)))
        if preempted:
            self.observe(TurnPreempted(turn))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), standing=st.sampled_from(Standing), tool=st.sampled_from(["grep", "make"]))
    def finish(self, data: st.DataObject, standing: Standing, tool: str) -> None:
        turn = data.draw(st.sampled_from(sorted(self.open)))
        if context := self.open.pop(turn):
            context.turns.discard(turn)
            context.depth += 1
            context.tool = tool if standing is Standing.TOOL else None
            context.idle_since = self.now
            self.tree.stand(context, standing)
            self.rest(context)
        stop = Stop.TOOL_USE if standing is Standing.TOOL else Stop.END_TURN
        self.observe(TurnFinished(turn, ("key0", "key1"), stop, tool, standing is Standing.ENDED))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(sorted(self.open)))
        if context := self.open.pop(turn):
            context.turns.discard(turn)
            self.rest(context)
        self.observe(TurnAborted(turn))

    def rest(self, context: Context) -> None:
        if context.standing is Standing.ENDED:
            self.survival.ended(context)
        elif not context.turns:
            self.survival.paused(context, self.now)
        self.observe(ContextChanged(context))

    @rule(job=st.sampled_from(["job0", "job1"]))
    def end(self, job: str) -> None:
        for context in self.contexts:
            if context.job == job:
                self.tree.stand(context, Standing.ENDED)
                self.rest(context)
        self.observe(JobFinished(job))

    @rule(who=CONTEXTS)
    def forget_context(self, who: int) -> None:
        gone = self.contexts[who]
        if gone.turns:
            return
        self.survival.lost(gone, self.now)
        self._seat(who, here=False)
        self.observe(ContextChanged(gone, gone=True))
        self.contexts[who] = Context(gone.id, gone.job)

    # What else a host tells

    @rule(pause_s=st.sampled_from([1.0, 30.0]))
    def learn(self, pause_s: float) -> None:
        """Enough returns to order by them."""
        for i in range(40):
            somebody = Context(str(i), "", standing=Standing.TOOL)
            self.survival.paused(somebody, self.now)
            self.survival.returned(somebody, self.now + pause_s)
        self.survival.rebuild(self.now)

    @rule(blocks=st.integers(BLOCKS // 2, BLOCKS))
    def resize(self, blocks: int) -> None:
        self.observe(PoolResized(blocks))

    @rule(c_att=st.sampled_from([1e-8, 1e-6]))
    def reprice(self, c_att: float) -> None:
        for policy in self.policies:
            if isinstance(policy, FollowsPrices):
                policy.reprice(CostModel(CostProfile(c_lin=1e-4, c_att=c_att), 16))

    @rule(job=st.sampled_from(["job0", "job1"]), ttl_s=st.sampled_from([0.0, 10.0]), keep=st.integers(0, 1))
    def grant(self, job: str, ttl_s: float, keep: int) -> None:
        for policy, numbers in zip(self.policies, (self.evictable, self.evictable, self.lent), strict=True):
            if isinstance(policy, ServiceLeases):
                mine = [self.blocks[n] for n in sorted(numbers) if any(c.job == job for c in self.blocks[n].owners)]
                assert policy.grant(job, self.now + ttl_s, keep, mine) == len(mine)

    @rule(job=st.sampled_from(["job0", "job1"]))
    def end_lease(self, job: str) -> None:
        for policy in self.policies:
            if isinstance(policy, ServiceLeases):
                policy.end(job, self.now)

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def break_protocol(self, data: st.DataObject) -> None:
        """A second offer, and a touch of what is not evictable, are refused and change nothing."""
        policy = self.pair[0]
        evictable = data.draw(st.sampled_from(sorted(self.evictable)))
        _raises(lambda: policy.offer(self.blocks[evictable], self.now))
        for number in set(range(BLOCKS)) - self.evictable:
            _raises(lambda number=number: policy.touch(self.blocks[number], self.now))
            _raises(lambda number=number: policy.forget(self.blocks[number]))

    @invariant()
    def books_balance(self) -> None:
        for policy, numbers in zip(self.policies, (self.evictable, self.evictable, self.lent), strict=True):
            assert len(policy) == len(numbers)
            assert {block.id for block in self.blocks if block in policy} == numbers
            policy.check()
            if isinstance(policy, Retains):
                kept = {context: policy.retains(context) for context in self.contexts}
                version, before = self.retained.get(policy, (0, {}))
                same = all(before.get(context, now) == now for context, now in kept.items())
                assert same or version != policy.retained_version()
                self.retained[policy] = policy.retained_version(), kept
        assert {block: _fields(block) for block in self.blocks} == self.written, "a policy wrote on a block"

    def teardown(self) -> None:
        """Nothing is held back for ever."""
        if hasattr(self, "pair"):
            assert _ids(self.pair[0].victims(len(self.evictable), frozenset(), self.now)) is not None


def _fields(block: Block) -> tuple[Any, ...]:
    return tuple(getattr(block, name) for name in Block.__slots__)


def _ids(blocks: list[Block] | None) -> list[int] | None:
    return None if blocks is None else [block.id for block in blocks]


def _raises(call: Callable[[], object]) -> None:
    try:
        call()
    except (KeyError, ValueError):
        return
    raise AssertionError("a call that breaks the protocol was taken")
