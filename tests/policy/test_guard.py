"""The guard: its shadow against real LRU, and when it makes a policy step back."""

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Key, PoolResized, Stop, TurnAborted, TurnArrived, TurnFinished, TurnScheduled
from agentcache.policy.guard import (
    EARLY_TURNS,
    FEWEST_TURNS,
    FIRST_REST_TURNS,
    SAMPLED_FROM_BLOCKS,
    TOLERANCE,
    WINDOW_TURNS,
    Guard,
    ShadowLru,
)

COST = CostModel(CostProfile(c_lin=1e-3, c_att=1e-9), 16)


def chain(text: str) -> tuple[Key, ...]:
    return tuple(text[: i + 1] for i in range(len(text)))


class AgainstBlocks(RuleBasedStateMachine):
    """The shadow against the plainest LRU of single blocks, for turns that do not overlap."""

    capacity = 12

    def __init__(self) -> None:
        super().__init__()
        self.shadow = ShadowLru(self.capacity)
        self.plain: OrderedDict[Key, None] = OrderedDict()  # next victim first
        self.running: tuple[Key, ...] | None = None

    @precondition(lambda self: self.running is None)
    @rule(text=st.text("ab", max_size=8))
    def start(self, text: str) -> None:
        keys = chain(text)
        hits = next((i for i, key in enumerate(keys) if key not in self.plain), len(keys))
        assert self.shadow.prefix(keys) == hits
        assert self.shadow.hold(keys) == len(keys)
        for key in keys[:hits]:
            del self.plain[key]
        while len(self.plain) + len(keys) > self.capacity:
            self.plain.popitem(last=False)
        self.running = keys

    @precondition(lambda self: self.running is not None)
    @rule()
    def end(self) -> None:
        assert self.running is not None
        self.shadow.release(self.running)
        self.plain.update((key, None) for key in reversed(self.running))
        self.running = None

    @invariant()
    def books_balance(self) -> None:
        self.shadow.check()


AgainstBlocks.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAgainstBlocks = AgainstBlocks.TestCase


def test_what_runs_is_not_evicted_and_what_does_not_fit_is_not_kept() -> None:
    shadow = ShadowLru(4)
    assert shadow.hold(chain("abc")) == 3
    assert shadow.hold(chain("xyz")) == 1, "only one block is left"
    shadow.release(chain("x"))
    assert (shadow.prefix(chain("abc")), shadow.prefix(chain("xyz"))) == (3, 1)
    shadow.check()


def turn(guard: Guard, name: str, text: str, paid: tuple[tuple[int, int], ...]) -> bool:
    keys, tokens = chain(text), 16 * len(text) + 1
    guard.observe(TurnArrived(name, keys, "job"))
    changed = guard.observe(TurnScheduled(name, tokens, 0, 0, 0, paid))
    guard.observe(TurnFinished(name, keys))
    return changed


def test_a_policy_that_pays_more_than_lru_steps_back_and_tries_again_later() -> None:
    guard = Guard(COST, 64)
    changes = []
    for i in range(4 * WINDOW_TURNS):
        # LRU would find the whole prompt from the second turn on; the policy finds nothing.
        if turn(guard, f"t{i}", "abcdefgh", ((0, 129),)):
            changes.append(i + 1)
    tried, rest = EARLY_TURNS, FIRST_REST_TURNS
    expected = []
    while not expected or expected[-1] < 4 * WINDOW_TURNS:
        expected += [(expected or [0])[-1] + tried, (expected or [0])[-1] + tried + rest]
        rest *= 2
    assert changes == [at for at in expected if at <= 4 * WINDOW_TURNS], "each rest is longer than the one before"
    guard.check()


def test_a_loss_among_turns_that_differ_as_much_waits_for_more_of_them() -> None:
    guard = Guard(COST, 10_000)
    turn(guard, "first", "abcdefgh", ((0, 129),))
    for i in range(1, FEWEST_TURNS - 1):
        # What LRU has, paid whole, or what it has not, for nothing: 7 losses on 6 gains.
        lost = i % 13 % 2 == 0
        text = "abcdefgh" if lost else chr(1000 + i) * 8
        assert not turn(guard, f"t{i}", text, ((0, 129),) if lost else ((128, 129),))
    assert guard.regret > TOLERANCE
    assert turn(guard, "last", "abcdefgh", ((0, 129),))


def test_shadow_lists_are_bounded_and_tidied_a_little_at_a_time() -> None:
    """A pool with room in which the same chains come back for ever."""
    shadow = ShadowLru(1000)
    for i in range(2000):
        keys = chain("abcdefgh"[i % 8] * (i % 97 + 1))
        assert shadow.hold(keys) == len(keys)
        shadow.release(keys)
        assert shadow._listed <= 4 * shadow.capacity_blocks
    shadow.check()


def test_a_policy_that_gains_goes_on() -> None:
    guard = Guard(COST, 8)
    for i in range(2 * WINDOW_TURNS):
        assert not turn(guard, f"t{i}", "abcdefgh" if i % 2 else "zyxwvuts", ((128, 129),))
    assert guard.regret < -0.9 and guard.rests == 0


def test_turns_that_end_otherwise_leave_nothing_behind() -> None:
    guard = Guard(COST, 8)
    guard.observe(TurnArrived("t", chain("abcd")))
    guard.observe(TurnAborted("t"))
    guard.observe(TurnArrived("u", chain("abcd")))
    guard.observe(TurnScheduled("u", 65, 0, 0, 0, ((0, 65),)))
    guard.observe(TurnAborted("u"))
    guard.observe(TurnScheduled("nobody", 65, 0, 0, 0, ((0, 65),)))
    guard.observe(TurnFinished("nobody", chain("abcd")))
    guard.observe(PoolResized(4))
    turn(guard, "v", "wxyz", ((0, 65),))
    guard.check()
    assert guard.paid_s == pytest.approx(guard.shadow_s)


def test_a_large_pool_is_sampled() -> None:
    guard = Guard(COST, SAMPLED_FROM_BLOCKS)
    for i in range(160):
        guard.observe(TurnArrived(f"t{i}", chain("ab"), f"job{i}"))
        guard.observe(TurnScheduled(f"t{i}", 33, 0, 0, 0, ((0, 33),)))
    one = COST.segments_seconds([(0, 33)])
    assert 2 <= guard.paid_s / one <= 30, "about one job in 16"


def test_turns_that_are_over_leave_nothing_whether_or_not_they_were_scheduled() -> None:
    """A host may never say that a turn was scheduled, or with nothing to compute; aborted ones release nothing."""
    guard = Guard(COST, 64)
    for number in range(200):
        turn, keys = f"{number}", chain("ab")
        guard.observe(TurnArrived(turn, keys, "j", "c"))
        if number % 4 == 1:
            guard.observe(TurnScheduled(turn, 32, 32, 0, 0))
        guard.observe(TurnAborted(turn) if number % 2 else TurnFinished(turn, keys, Stop.TOOL_USE))
    assert not guard._open and not guard._held and not guard._shadow._listed


def test_prompts_without_a_full_block_leave_no_release_behind() -> None:
    shadow = ShadowLru(8)
    for _ in range(1000):
        shadow.hold(())
        shadow.release(())
    assert not shadow._later
    shadow.check()
