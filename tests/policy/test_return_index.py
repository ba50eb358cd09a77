"""Return index: against its own definition written plainly, and the behaviour that it is there for."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, Context, Key, Standing, Stop, TurnArrived, TurnFinished
from agentcache.policy.return_index import ReturnIndex
from agentcache.policy.survival import bucket
from agentcache.residency import Residency

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-6), 16)
CAPACITY = 64


class Host:
    """A pool of blocks that runs whole turns at one moment."""

    def __init__(self, run_blocks: int = 4) -> None:
        self.policy = ReturnIndex(COST, CAPACITY, run_blocks=run_blocks)
        self.residency = Residency(self.policy, CAPACITY)
        self.empty = [Block(i, None, 0) for i in range(CAPACITY)]
        self.resident: dict[Key, Block] = {}
        self.turns = 0

    def turn(self, text: str, now: float, context: str, stop: Stop = Stop.TOOL_USE, last: bool | None = None) -> None:
        keys = tuple(text[: i + 1] for i in range(len(text)))
        name = f"t{self.turns}"
        self.turns += 1
        self.residency.observe(TurnArrived(name, keys, context, context), now)
        held = [self.resident[key] for key in keys if key in self.resident]
        self.residency.acquire(held, now)
        missing = [(i, key) for i, key in enumerate(keys) if key not in self.resident]
        if len(missing) > len(self.empty):
            self.evict(len(missing) - len(self.empty), now)
        for index, key in missing:
            block = self.empty.pop()
            block.index, block.key = index, key
            self.resident[key] = block
            held.append(block)
        self.residency.observe(TurnFinished(name, keys, stop, last=last), now)
        self.residency.release(sorted(held, key=lambda block: -block.index), now)

    def evict(self, need: int, now: float) -> list[Key]:
        victims = self.residency.victims(need, now)
        assert victims is not None
        for block in victims:
            del self.resident[block.key]
        self.empty += victims
        return [block.key for block in victims]


NEVER_S = 9000.0


def teach(host: Host, pauses: Sequence[tuple[Standing, float]]) -> None:
    for standing, pause_s in pauses:
        context = Context("seen", "seen", standing=standing, depth=1)
        host.residency.survival.paused(context, 0.0)
        if pause_s == NEVER_S:
            host.residency.survival.lost(context, pause_s)
        else:
            host.residency.survival.returned(context, pause_s)
    host.residency.survival.rebuild(0.0)


MIXED = [(Standing.TOOL, 1.0)] * 100 + [(Standing.TOOL, NEVER_S)] * 20 + [(Standing.END_TURN, 200.0)] * 100


def test_who_waits_for_a_tool_stays_before_who_answered_the_user() -> None:
    host = Host()
    teach(host, MIXED)
    host.turn("abcd", 0.0, "tool", Stop.TOOL_USE)
    host.turn("wxyz", 0.0, "user", Stop.END_TURN)
    assert host.evict(4, 0.5) == ["w", "wx", "wxy", "wxyz"]


def test_who_has_missed_its_time_goes_before_who_may_still_come() -> None:
    host = Host()
    teach(host, MIXED)
    host.turn("abcd", 0.0, "tool", Stop.TOOL_USE)
    host.turn("wxyz", 100.0, "user", Stop.END_TURN)
    assert host.evict(4, 190.0) == ["a", "ab", "abc", "abcd"]


def test_of_two_alike_the_shorter_position_goes_first() -> None:
    host = Host(run_blocks=2)
    teach(host, MIXED)
    host.turn("abcdef", 0.0, "one")
    host.turn("uvwxyz", 0.0, "two")
    keys = host.evict(8, 0.5)
    assert sorted(map(len, keys)) == [1, 1, 2, 2, 3, 3, 4, 4], "both lose their heads, in turns"


def test_ended_work_goes_first_and_a_shared_prompt_last() -> None:
    host = Host()
    teach(host, MIXED)
    host.turn("sysab", 0.0, "one")
    host.turn("sysxy", 0.0, "two")
    host.turn("zzzz", 0.0, "three", Stop.END_TURN, last=True)
    assert host.evict(4, 0.5) == ["z", "zz", "zzz", "zzzz"]
    assert {key[:3] for key in host.evict(4, 0.5)} == {"sys"}
    assert set(host.resident) == {"s", "sy", "sys"}


def test_rewritten_history_is_demoted_not_dropped() -> None:
    host = Host()
    teach(host, MIXED + [(Standing.SUPERSEDED, 3000.0)] * 40)
    host.turn("abcdef", 0.0, "one")
    host.turn("abXYZ", 1.0, "one")
    assert set(host.resident) >= {"abc", "abcdef"}
    assert host.evict(4, 1.5) == ["abc", "abcd", "abcde", "abcdef"]


def test_without_knowledge_it_is_lru_from_the_head() -> None:
    host = Host()
    host.turn("abc", 0.0, "one")
    host.turn("xyz", 1.0, "two")
    host.turn("abc", 2.0, "one")
    assert host.evict(4, 3.0) == ["x", "xy", "xyz", "a"]


def test_new_prices_give_a_new_order() -> None:
    host = Host(run_blocks=1)
    teach(host, MIXED)
    host.turn("abcdef", 0.0, "one")
    host.turn("xy", 0.0, "two")
    host.evict(1, 0.5)
    host.policy.reprice(CostModel(CostProfile(c_lin=1e-4, c_att=0.0), 16))
    host.residency.check()
    assert len(host.evict(3, 0.5)) == 3


class AgainstTheDefinition(RuleBasedStateMachine):
    """Random turns and evictions; each victim is the one that the definition picks."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host()
        self.now = 0.0

    @rule()
    def learn(self) -> None:
        teach(self.host, MIXED)

    @rule(step_s=st.floats(0.01, 500))
    def wait(self, step_s: float) -> None:
        self.now += step_s

    @rule(
        text=st.text("ab", min_size=1, max_size=12),
        context=st.sampled_from("123"),
        stop=st.sampled_from([Stop.TOOL_USE, Stop.END_TURN, Stop.UNKNOWN]),
        last=st.sampled_from([None, None, True]),
    )
    def turn(self, text: str, context: str, stop: Stop, last: bool | None) -> None:
        self.host.turn(text, self.now, context, stop, last)

    @precondition(lambda self: len(self.host.residency))
    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        need = 1 + int(share * (len(self.host.residency) - 1))
        expected = self.expected(need)
        assert self.host.evict(need, self.now) == expected

    def expected(self, need: int) -> list[Key]:
        survival = self.host.residency.survival
        groups: dict[object, list[Block]] = {}
        for block in sorted(self.host.resident.values(), key=lambda block: block.index):
            groups.setdefault(block.owners or block.release, []).append(block)

        def value(blocks: list[Block]) -> tuple[float, int, int]:
            release = blocks[0].release
            if not survival.ready:
                return release, release, blocks[0].index
            rate = 0.0
            for context in blocks[0].owners:
                since = survival.since(context)
                if context.standing is not Standing.ENDED and since is not None:
                    rate += survival.rates(context)[bucket(self.now - since)]
            if not blocks[0].owners:
                rate = survival.curve(()).rates[bucket(self.now - blocks[0].released_at)]
            run = blocks[:4]
            return rate * sum(COST.block_seconds(block.index) for block in run) / len(run), release, blocks[0].index

        chosen: list[Key] = []
        while len(chosen) < need:
            blocks = min((blocks for blocks in groups.values() if blocks), key=value)
            count = min(4, need - len(chosen))
            chosen += [block.key for block in blocks[:count]]
            del blocks[:count]
        return chosen

    @invariant()
    def books_balance(self) -> None:
        self.host.residency.check()


AgainstTheDefinition.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstTheDefinition = AgainstTheDefinition.TestCase
