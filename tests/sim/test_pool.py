"""The counted pool: references, copies and what does not fit."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block
from agentcache.policy import make_policy
from agentcache.residency import Residency
from agentcache.sim import Pool

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)


def pool(capacity_blocks: int, policy: str = "lru") -> Pool:
    return Pool(Residency(make_policy(policy, COST, capacity_blocks), capacity_blocks))


def test_a_shared_block_is_free_when_its_last_user_gives_it_back() -> None:
    small = pool(2)
    (block,) = small.store([(0, "a")], 0.0)
    small.acquire([block], 1.0)
    small.release([block], 2.0)
    assert small.free_blocks == 1
    small.release([block], 3.0)
    assert (small.free_blocks, block.released_at) == (2, 3.0)
    assert small.find(["a", "b"]) == [block, None]


def test_what_does_not_fit_is_not_stored() -> None:
    small = pool(3)
    held = small.store([(0, "a"), (1, "b")], 0.0)
    assert [block.key for block in small.store([(0, "x"), (1, "y")], 0.0)] == ["x"]
    small.release(held, 1.0)
    assert [block.key for block in small.store([(0, "p"), (1, "q"), (2, "r")], 2.0)] == ["p", "q"]
    assert small.find(["a", "b"]) == [None, None]
    small.check()


def test_the_oldest_copy_is_found() -> None:
    small = pool(3)
    first, second = small.store([(0, "a")], 0.0)[0], small.store([(0, "a")], 0.0)[0]
    assert small.find(["a"]) == [first]
    small.release([first, second], 1.0)
    small.store([(0, "x"), (0, "y")], 2.0)  # one empty block, then the first copy
    assert small.find(["a"]) == [second]
    small.check()


class Turns(RuleBasedStateMachine):
    """Turns that share blocks start and end in any order; in the end all blocks are free."""

    @initialize(policy=st.sampled_from(["lru", "lru-holes", "asymcache"]), capacity=st.integers(1, 12))
    def start(self, policy: str, capacity: int) -> None:
        self.pool = pool(capacity, policy)
        self.running: list[list[Block]] = []
        self.now = 0.0

    @rule(text=st.text("ab", max_size=6), seconds=st.sampled_from([0.0, 1.0, 50.0]))
    def begin(self, text: str, seconds: float) -> None:
        self.now += seconds
        keys = [text[: end + 1] for end in range(len(text))]
        found = self.pool.find(keys)
        hits = [block for block in found if block]
        assert all(block is None or block.key == key for block, key in zip(found, keys, strict=True))
        self.pool.acquire(hits, self.now)
        places = [(index, key) for index, key in enumerate(keys) if not found[index]]
        fits = min(len(places), self.pool.free_blocks)
        stored = self.pool.store(places, self.now)
        assert [block.key for block in stored] == [key for _, key in places[:fits]]
        self.running.append(hits + stored)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.running:
            number = data.draw(st.integers(0, len(self.running) - 1))
            self.pool.release(reversed(self.running.pop(number)), self.now)

    @invariant()
    def books_balance(self) -> None:
        self.pool.check()

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            while self.running:
                self.pool.release(self.running.pop(), self.now)
            assert self.pool.free_blocks == self.pool.capacity_blocks


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=40, stateful_step_count=30)
