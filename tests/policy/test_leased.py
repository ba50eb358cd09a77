"""The retention layer by itself: whatever is granted, the books balance and leased blocks go last."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentcache.model import NOBODY, Block, BlocksRestood, Context
from agentcache.policy import make_policy
from agentcache.policy.leased import Lease, Leased, LeaseRule
from tests.policy.conformance import COST
from tests.policy.owners import owned

BLOCKS = 16
WHO = st.integers(0, 2)
NUMBERS = st.sets(st.integers(0, BLOCKS - 1))


class Told(LeaseRule):
    """Grants nothing by itself; the machine does."""

    name = "told"
    waiting = False

    def awaited(self, holder: object) -> bool:
        return self.waiting


class Machine(RuleBasedStateMachine):
    """Leases of three contexts, some of whose blocks are shared, over `lru`, with and without a copy aside."""

    @initialize(copy=st.booleans(), most_blocks=st.sampled_from([5, BLOCKS]))
    def start(self, copy: bool, most_blocks: int) -> None:
        self.rule = Told()
        self.rule.most_blocks = most_blocks
        aside = make_policy("lru", COST, BLOCKS) if copy else None
        self.layer = Leased(self.rule, make_policy("lru", COST, BLOCKS), aside)
        self.contexts = [Context(f"context{i}", f"job{i}") for i in range(3)]
        self.blocks = [Block(number, f"key{number}", number % 4) for number in range(BLOCKS)]
        self.owners = [owned(*self.contexts[:2]), owned(self.contexts[2]), NOBODY]
        self.evictable: set[int] = set()
        self.now = 0.0
        self.releases = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]), waiting=st.booleans())
    def wait(self, seconds: float, waiting: bool) -> None:
        self.now += seconds
        self.rule.waiting = waiting

    @rule(numbers=NUMBERS, who=WHO)
    def offer(self, numbers: set[int], who: int) -> None:
        self.releases += 1
        blocks = [self.blocks[number] for number in sorted(numbers - self.evictable, reverse=True)]
        for block in blocks:
            block.release, block.released_at, block.owners = self.releases, self.now, self.owners[who]
        self.layer.offer_all(blocks, self.now)
        self.evictable |= numbers

    @rule(numbers=NUMBERS, used=st.booleans())
    def leave(self, numbers: set[int], used: bool) -> None:
        blocks = [self.blocks[number] for number in sorted(numbers & self.evictable)]
        if used:
            self.layer.touch_all(blocks, self.now)
        else:
            for block in blocks:
                self.layer.forget(block)
        self.evictable -= numbers

    @rule(numbers=NUMBERS, who=WHO)
    def restand(self, numbers: set[int], who: int) -> None:
        for number in numbers:
            self.blocks[number].owners = self.owners[who]
        self.layer.observe(BlocksRestood(tuple(self.blocks[number] for number in sorted(numbers))), self.now)

    @rule(who=WHO, seconds=st.sampled_from([0.5, 5.0, float("inf")]), told=st.booleans())
    def grant(self, who: int, seconds: float, told: bool) -> None:
        mine = [block for block in self.blocks if self.contexts[who] in block.owners] if told else []
        kept = self.layer.grant(self.contexts[who], self.now + seconds, 0, mine)
        assert self.layer.retains(self.contexts[who])
        assert not told or kept == sum(block.id in self.evictable for block in mine)
        self.layer.fit(self.rule.most_blocks, self.now)

    @rule(who=WHO)
    def end(self, who: int) -> None:
        had = self.layer.until(self.contexts[who]) is not None
        assert self.layer.end(self.contexts[who], self.now) == had
        assert not self.layer.retains(self.contexts[who])

    @precondition(lambda self: self.evictable)
    @rule(data=st.data(), excluded=NUMBERS)
    def evict(self, data: st.DataObject, excluded: set[int]) -> None:
        self.layer.expire(self.now)
        there = self.evictable - excluded
        free = {number for number in there if self.blocks[number] in self.layer.inner}
        need = data.draw(st.integers(0, BLOCKS))
        taken = self.layer.victims(need, {self.blocks[number] for number in excluded}, self.now)
        if taken is None:
            assert need > len(there)
            return
        ids = {block.id for block in taken}
        assert len(ids) == len(taken) == need and ids <= there
        assert ids <= free or self.layer.leases.pressed or free <= ids, "leased blocks go last"
        self.evictable -= ids

    @invariant()
    def balances(self) -> None:
        assert {block.id for block in self.blocks if block in self.layer} == self.evictable
        assert len(self.layer) == len(self.evictable)
        self.layer.check()


TestLeased = Machine.TestCase
TestLeased.settings = settings(max_examples=80, stateful_step_count=40)


def kept_apart(copy: bool) -> tuple[Leased, list[Block]]:
    """An old context under a lease and a younger one without; each has four blocks, the leased ones first."""
    layer = Leased(Told(), make_policy("lru-holes", COST, 8), make_policy("lru-holes", COST, 8) if copy else None)
    old, young = Context("old", "old"), Context("young", "young")
    layer.grant(old, 10.0)
    owners = [owned(old), owned(young)]
    blocks = [Block(i, i, i % 4, 1 + i // 4, 0.0, owners=owners[i // 4]) for i in range(8)]
    layer.offer_all(blocks[:4], 0.0)
    layer.offer_all(blocks[4:], 0.0)
    return layer, blocks


def test_under_pressure_a_lease_ends_and_the_inner_policy_orders_all() -> None:
    layer, blocks = kept_apart(copy=False)
    assert layer.victims(5, frozenset(), 1.0) == blocks[:5], "the leased context is older"
    assert (layer.leases.pressed, layer.holders()) == (1, [])


def test_with_a_copy_aside_the_lease_goes_on_and_its_blocks_leave_one_by_one() -> None:
    layer, blocks = kept_apart(copy=True)
    assert layer.victims(5, frozenset(), 1.0) == [*blocks[4:], blocks[0]]
    assert (layer.leases.pressed, len(layer.holders())) == (0, 1)
    layer.check()


def test_who_gives_way_and_whose_lease_blocks_are_under_is_the_rule_s() -> None:
    class Whole(Told):
        def holder(self, context: Context) -> str:
            return context.job

        def rank(self, lease: Lease) -> tuple[float, ...]:
            return (lease.priority,)

    layer = Leased(Whole(), make_policy("lru", COST, 8))
    branches = [Context("a", "job"), Context("b", "job")]
    layer.grant("other", 10.0, priority=1)
    layer.grant("job", 10.0, priority=2)
    block = Block(0, 0, 0, 1, 0.0, owners=owned(*branches))
    layer.offer(block, 0.0)
    layer.check()
    assert layer.victims(1, frozenset(), 1.0) == [block]
    assert (layer.leases.pressed, layer.holders()) == (2, []), "the less important one first, though it kept nothing"
