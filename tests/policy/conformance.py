"""What every policy owes its host: a state machine against the plainest model, a set of evictable blocks."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, BlocksRestood, Standing, TurnArrived
from agentcache.policy import Policy, make_policy
from agentcache.policy.belady import Belady

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)
BLOCKS = 24


class Conformance(RuleBasedStateMachine):
    """Drives two instances of one policy alike; `spec` is set by a subclass."""

    spec: str

    @initialize()
    def start(self) -> None:
        self.policies: list[Policy] = [make_policy(self.spec, COST, BLOCKS) for _ in range(2)]
        for policy in self.policies:
            if isinstance(policy, Belady):
                policy.foresee({f"key{number}": [10.0 * number, 4000.0] for number in range(0, BLOCKS, 2)})
        # Each instance has its own blocks: a policy may know them by identity alone.
        self.blocks = [[Block(number, f"key{number}", number % 8) for number in range(BLOCKS)] for _ in range(2)]
        self.evictable: set[int] = set()
        self.now = 0.0
        self.releases = 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 5.0, 60.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(numbers=st.sets(st.integers(0, BLOCKS - 1), max_size=8), standing=st.sampled_from(Standing))
    def offer(self, numbers: set[int], standing: Standing) -> None:
        self.releases += 1
        for number in sorted(numbers - self.evictable, reverse=True):
            for policy, blocks in zip(self.policies, self.blocks, strict=True):
                block = blocks[number]
                block.release, block.released_at, block.standing = self.releases, self.now, standing
                policy.offer(block, self.now)
            self.evictable.add(number)

    @precondition(lambda self: self.evictable)
    @rule(data=st.data(), used=st.booleans())
    def leave(self, data: st.DataObject, used: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.evictable)))
        for policy, blocks in zip(self.policies, self.blocks, strict=True):
            if used:
                policy.touch(blocks[number], self.now)
            else:
                policy.forget(blocks[number])
        self.evictable.discard(number)

    @rule(need=st.integers(0, BLOCKS), excluded=st.sets(st.integers(0, BLOCKS - 1), max_size=6))
    def evict(self, need: int, excluded: set[int]) -> None:
        answers = []
        for policy, blocks in zip(self.policies, self.blocks, strict=True):
            victims = policy.victims(need, {blocks[number] for number in excluded}, self.now)
            answers.append(None if victims is None else [block.id for block in victims])
        assert answers[0] == answers[1], "the same calls must have the same victims"
        ids = answers[0]
        if ids is None:
            assert len(self.evictable - excluded) < need, "there were enough"
            return
        assert len(ids) == len(set(ids)) == need
        assert set(ids) <= self.evictable - excluded
        self.evictable -= set(ids)

    @rule(numbers=st.sets(st.integers(0, BLOCKS - 1)), standing=st.sampled_from(Standing))
    def restand(self, numbers: set[int], standing: Standing) -> None:
        for policy, blocks in zip(self.policies, self.blocks, strict=True):
            changed = [blocks[number] for number in sorted(numbers & self.evictable)]
            for block in changed:
                block.standing = standing
            policy.observe(BlocksRestood(tuple(changed)), self.now)

    @rule(numbers=st.lists(st.integers(0, BLOCKS - 1)))
    def arrive(self, numbers: list[int]) -> None:
        for policy in self.policies:
            policy.observe(TurnArrived("turn", tuple(f"key{number}" for number in numbers)), self.now)

    @precondition(lambda self: self.evictable)
    @rule(data=st.data())
    def break_protocol(self, data: st.DataObject) -> None:
        """A second offer, and a touch of what is not evictable, are refused and change nothing."""
        policy, blocks = self.policies[0], self.blocks[0]
        evictable = data.draw(st.sampled_from(sorted(self.evictable)))
        _raises(lambda: policy.offer(blocks[evictable], self.now))
        for number in set(range(BLOCKS)) - self.evictable:
            _raises(lambda number=number: policy.touch(blocks[number], self.now))
            _raises(lambda number=number: policy.forget(blocks[number]))

    @invariant()
    def books_balance(self) -> None:
        for policy, blocks in zip(self.policies, self.blocks, strict=True):
            assert len(policy) == len(self.evictable)
            assert {block.id for block in blocks if block in policy} == self.evictable
            policy.check()


def _raises(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except (KeyError, ValueError):
        return
    raise AssertionError("a call that breaks the protocol was taken")
