"""Return index: against its own definition written plainly, and the behaviour that it is there for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, Context, ContextChanged, Key, Owners, Standing, Stop, TurnArrived, TurnFinished
from agentcache.policy.base import Reuse
from agentcache.policy.return_index import ReturnIndex
from agentcache.policy.survival import bucket
from agentcache.residency import Residency

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-6), 16)
CAPACITY = 64


class Host:
    """A pool of blocks that runs whole turns at one moment."""

    def __init__(self, run_blocks: int = 4, reuse: Reuse = "holes") -> None:
        self.policy = ReturnIndex(COST, CAPACITY, run_blocks=run_blocks, reuse=reuse)
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


def test_a_held_turn_is_due_as_late_as_it_has_waited_and_one_that_may_run_at_once() -> None:
    host = Host()
    teach(host, MIXED)
    host.turn("abcd", 0.0, "queued")
    host.residency.observe(TurnArrived("late", tuple("abcde"[: i + 1] for i in range(5)), "queued", "queued"), 0.0)
    host.turn("wxyz", 800.0, "user", Stop.END_TURN)
    context = host.residency.context_of("late")
    assert context
    for held, gone in ((False, "w"), (True, "a")):
        context.held = held
        host.policy.observe(ContextChanged(context), 900.0)
        assert host.evict(1, 900.0) == [gone]


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


def test_for_prefix_reuse_it_is_lru_from_the_tail_without_knowledge() -> None:
    host = Host(reuse="prefix")
    host.turn("abc", 0.0, "one")
    host.turn("xyz", 1.0, "two")
    host.turn("abc", 2.0, "one")
    assert host.evict(4, 3.0) == ["xyz", "xy", "x", "abc"]


def test_for_prefix_reuse_who_has_begun_to_go_goes_on() -> None:
    host = Host(run_blocks=2, reuse="prefix")
    teach(host, MIXED)
    host.turn("abcdef", 0.0, "one")
    host.turn("uvwxyz", 0.0, "two")
    host.turn("mn", 0.0, "short")
    assert host.evict(2, 0.5) == ["mn", "m"], "the shorter one costs less a block"
    assert host.evict(3, 0.5) + host.evict(3, 0.5) == ["abcdef"[:i] for i in range(6, 0, -1)]


def test_for_prefix_reuse_a_shared_prompt_goes_after_all_that_is_behind_it() -> None:
    host = Host(reuse="prefix")
    teach(host, MIXED)
    host.turn("s" + "a" * 20, 0.0, "one")
    host.turn("s" + "b" * 20, 0.0, "two")
    host.turn("yz", 0.0, "three", Stop.TOOL_USE)
    assert set(host.evict(2, 0.5)) == {"yz", "y"}, "the prompt is cheaper, but 40 blocks would be lost with it"
    assert "s" not in host.evict(40, 0.5)
    assert host.evict(1, 0.5) == ["s"]


def test_for_prefix_reuse_a_rest_is_stock_lru() -> None:
    host = Host(reuse="prefix")
    teach(host, MIXED)
    host.turn("sab", 0.0, "one", Stop.END_TURN)
    host.turn("xyz", 1.0, "two", Stop.END_TURN)
    host.turn("sab", 2.0, "one", Stop.END_TURN)
    host.turn("scd", 3.0, "three", Stop.TOOL_USE)
    host.policy.guard._left = 1
    host.policy._reorder()
    assert host.evict(8, 3.5) == ["xyz", "xy", "x", "sab", "sa", "scd", "sc", "s"]


def test_new_prices_give_a_new_order() -> None:
    host = Host(run_blocks=1)
    teach(host, MIXED)
    host.turn("abcdef", 0.0, "one")
    host.turn("xy", 0.0, "two")
    host.evict(1, 0.5)
    host.policy.reprice(CostModel(CostProfile(c_lin=1e-4, c_att=0.0), 16))
    host.residency.check()
    assert len(host.evict(3, 0.5)) == 3


def test_two_instances_order_parts_of_one_pool() -> None:
    one, other = (ReturnIndex(COST, CAPACITY) for _ in range(2))
    blocks = [Block(i, f"k{i}", i, release=1) for i in range(4)]
    one.offer_all(blocks[:2], 0.0)
    other.offer_all(blocks[2:], 0.0)
    assert [[block in policy for block in blocks] for policy in (one, other)] == [
        [True] * 2 + [False] * 2,
        [False] * 2 + [True] * 2,
    ]
    with pytest.raises(KeyError):
        other.touch(blocks[0], 1.0)
    one.forget(blocks[0])
    other.offer(blocks[0], 1.0)
    assert one.victims(1, frozenset(), 1.0) == [blocks[1]]
    assert other.victims(3, frozenset(), 1.0) == [blocks[0], *blocks[2:]]
    one.check()
    other.check()


def test_two_blocks_of_one_id_are_refused() -> None:
    policy = ReturnIndex(COST, CAPACITY)
    with pytest.raises(ValueError, match="share an id"):
        policy.offer_all([Block(0, "a", 0), Block(0, "b", 1)], 0.0)
    policy.check()
    assert not len(policy)


OVER = -1.0


@dataclass
class Group:
    """Blocks with the same owners, the first to go first: their rate of return, releases, keys and positions."""

    owners: Owners
    rate: float | None
    releases: list[int]
    run: list[tuple[Key, int]]
    reuse: Reuse

    @property
    def value(self) -> float:
        if self.rate is None or self.rate is OVER:  # while nothing is known
            return self.rate or 0.0
        first, count = self.run[0][1], min(4, len(self.run))
        if self.reuse == "prefix":
            first, count = self.run[-1][1], len(self.run)
        return self.rate * sum(map(COST.block_seconds, range(first, first + count))) / count  # as if without a break

    def order(self) -> tuple[float, int, int]:
        return self.value, self.releases[-len(self.run)], self.run[0][1]

    def may_go(self, others: list["Group"]) -> bool:
        return self.reuse == "holes" or not any(other.owners in self.owners.after for other in others)


class AgainstTheDefinition(RuleBasedStateMachine):
    """Random turns and evictions; each victim is the one that the definition picks."""

    reuse: Reuse = "holes"

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(reuse=self.reuse)
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
        groups = self.groups()
        victims = self.host.evict(1 + int(share * (len(self.host.residency) - 1)), self.now)
        while victims:
            groups = [group for group in groups if group.run]
            least = min((group for group in groups if group.may_go(groups)), key=Group.order)
            chosen = next(group for group in groups if group.run[0][0] == victims[0])
            # Runs of unlike length can be worth the same but for the last bit; of what is worth nothing, order counts.
            assert chosen.may_go(groups)
            assert chosen is least or (least.value and math.isclose(chosen.value, least.value, rel_tol=1e-9))
            count = min(4, len(victims), len(chosen.run))
            assert victims[:count] == [key for key, _ in chosen.run[:count]]
            del victims[:count], chosen.run[:count]

    def groups(self) -> list["Group"]:
        survival = self.host.residency.survival
        found: dict[object, list[Block]] = {}
        for block in sorted(self.host.resident.values(), key=lambda block: block.index, reverse=self.reuse == "prefix"):
            found.setdefault(block.owners or block.release, []).append(block)

        def rate(first: Block) -> float | None:
            if not survival.ready:
                return OVER if first.standing in (Standing.SUPERSEDED, Standing.ENDED) else None
            if not first.owners:
                return survival.curve(()).rates[bucket(self.now - first.released_at)]
            pauses = [(c, survival.since(c)) for c in first.owners if c.standing is not Standing.ENDED]
            return sum(survival.rates(c)[bucket(self.now - since)] for c, since in pauses if since is not None)

        return [
            Group(
                run[0].owners,
                rate(run[0]),
                [block.release for block in run],
                [(block.key, block.index) for block in run],
                self.reuse,
            )
            for run in found.values()
        ]

    @invariant()
    def books_balance(self) -> None:
        self.host.residency.check()


class ForPrefixReuse(AgainstTheDefinition):
    reuse: Reuse = "prefix"


for machine in (AgainstTheDefinition, ForPrefixReuse):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestAgainstTheDefinition = AgainstTheDefinition.TestCase
TestForPrefixReuse = ForPrefixReuse.TestCase
