"""AsymCache against the formulas that it implements, evaluated in the plain for every block."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, BlocksRestood, Standing, TurnArrived
from agentcache.policy.published.asymcache import START_LIFESPAN_S, AsymCache, AsymCachePaper, AsymCachePeriodic

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)
FACTORS = {Standing.TOOL: 10.0, Standing.ENDED: 1e-6, Standing.SUPERSEDED: 0.1}


def value(policy: AsymCache, block: Block, now: float, factor: float) -> float:
    """c f(tau) dT with eq. (9), its second branch multiplied by lambda of eq. (10), in the linear domain."""
    idle_s = now - block.released_at
    slow = math.exp(-idle_s / policy._alpha)
    fast = math.exp(policy._ln_lambda) * math.exp(-(idle_s - policy._tau0) / policy._beta)
    return factor * min(slow, fast) * COST.block_seconds(block.index)


blocks_drawn = st.lists(
    st.tuples(st.floats(0, 60), st.integers(0, 4000), st.sampled_from(Standing)), min_size=1, max_size=30
)


@given(
    blocks_drawn,
    st.floats(0, 60),
    st.floats(1, 60),
    st.floats(0.05, 0.99),
    st.floats(1.5, 40),
    st.floats(-3, 3),
    st.floats(0, 1e7),
)
@settings(max_examples=200)
def test_victims_have_the_least_value(
    drawn: list[tuple[float, int, Standing]],
    wait_s: float,
    lifespan_s: float,
    p: float,
    r: float,
    ln_lambda: float,
    uptime_s: float,
) -> None:
    policy = AsymCache(COST, 64, lifespan_s=lifespan_s, p=p, r=r)
    policy._ln_lambda = ln_lambda
    blocks = []
    for number, (age_s, index, standing) in enumerate(sorted(drawn, key=lambda block: -block[0])):
        released_at = uptime_s + 60 - age_s
        blocks.append(Block(number, number, index, number, released_at, standing))
        policy.offer(blocks[-1], released_at)
    now = uptime_s + 60 + wait_s
    left = set(blocks)
    while left:
        (victim,) = policy.victims(1, frozenset(), now) or []
        values = {block: value(policy, block, now, FACTORS.get(block.standing, 1.0)) for block in left}
        floor = min(values.values())
        if floor < 1e-290:  # below that doubles run out; the policy works with logarithms and does not
            return
        assert values[victim] <= floor * (1 + 1e-5)
        left.remove(victim)


@given(blocks_drawn, st.integers(1, 30), st.floats(0, 1000))
@settings(max_examples=100)
def test_many_victims_are_those_taken_one_by_one(
    drawn: list[tuple[float, int, Standing]], need: int, wait_s: float
) -> None:
    at_once, one_by_one = AsymCache(COST, 64), AsymCache(COST, 64)
    for number, (age_s, index, standing) in enumerate(sorted(drawn, key=lambda block: -block[0])):
        for policy in (at_once, one_by_one):
            policy.offer(Block(number, number, index, number, 60 - age_s, standing), 60 - age_s)
    victims = at_once.victims(need, frozenset(), 60 + wait_s)
    if need > len(drawn):
        assert victims is None
        return
    assert victims is not None
    singles = [one_by_one.victims(1, frozenset(), 60 + wait_s) for _ in range(need)]
    assert [block.id for block in victims] == [single[0].id for single in singles if single]


def test_parameters_meet_at_the_turning_point() -> None:
    policy = AsymCache(COST, 8, lifespan_s=30.0, p=0.5, r=40.0)
    assert (policy._alpha, policy._beta, policy._tau0) == pytest.approx((43.28, 1.082, 29.25), rel=1e-3)
    block = Block(0, 0, 0)
    assert value(policy, block, 30.0, 1.0) / COST.block_seconds(0) == pytest.approx(0.5)


def test_after_hours_of_idling_the_order_is_still_exact() -> None:
    """In the linear domain all of these weights are 0."""
    policy = AsymCache(COST, 8, lifespan_s=1.0)
    for number in range(4):
        policy.offer(Block(number, number, 0, number, float(number)), float(number))
    victims = policy.victims(4, frozenset(), 1e6)
    assert victims is not None
    assert [block.id for block in victims] == [0, 1, 2, 3]


def test_constant_price_is_lru_tail_first() -> None:
    flat = CostModel(CostProfile(c_lin=1e-4, c_att=0.0), 16)
    policy = AsymCache(flat, 16, lifespan_s=30.0)
    for release, count in ((1, 3), (2, 2)):
        for index in reversed(range(count)):
            policy.offer(Block(10 * release + index, (release, index), index, release, float(release)), float(release))
    victims = policy.victims(5, frozenset(), 10.0)
    assert victims is not None
    assert [block.id for block in victims] == [12, 11, 10, 21, 20]


def test_a_restood_block_moves_and_keeps_its_age() -> None:
    policy = AsymCache(COST, 8, lifespan_s=30.0)
    first, second = Block(0, "a", 5, 1, 0.0, Standing.TOOL), Block(1, "b", 5, 2, 1.0, Standing.TOOL)
    policy.offer(first, 0.0)
    policy.offer(second, 1.0)
    second.standing = Standing.ENDED
    policy.observe(BlocksRestood((second,)), 2.0)
    policy.check()
    assert policy.victims(1, frozenset(), 2.0) == [second]
    assert first in policy


def pause(policy: AsymCache, release: int, idle_s: float, standing: Standing = Standing.TOOL, blocks: int = 1) -> None:
    """One context released at 1000 x release, back after `idle_s`."""
    at = 1000.0 * release
    released = [Block(index, (release, index), index, release, at, standing) for index in range(blocks)]
    for block in reversed(released):
        policy.offer(block, at)
    for block in released:
        policy.touch(block, at + idle_s)


def lifespan_after(policy: AsymCache, idle_s: Callable[[int], float], samples: int, **how: object) -> float:
    for release in range(1, samples + 1):
        pause(policy, release, idle_s(release), **how)  # type: ignore[arg-type]
    return policy._lifespan_s


def test_lifespan_starts_at_30_s_and_is_learnt_after_64_pauses() -> None:
    policy = AsymCache(COST, 64)
    assert policy._lifespan_s == START_LIFESPAN_S == 30.0
    assert lifespan_after(policy, float, 63) == 30.0
    pause(policy, 64, 64.0)
    assert policy._lifespan_s == 55.0  # P85 of 1 ... 64 s


@pytest.mark.parametrize(("preset", "learnt"), [(AsymCache, 55.0), (AsymCachePaper, 64.0), (AsymCachePeriodic, 38.4)])
def test_presets_learn_their_quantile(preset: type[AsymCache], learnt: float) -> None:
    assert lifespan_after(preset(COST, 64), float, 64) == pytest.approx(learnt)


def test_only_the_default_preset_learns_from_tools_alone() -> None:
    user = {"standing": Standing.END_TURN}
    assert lifespan_after(AsymCache(COST, 64), lambda _: 500.0, 64, **user) == 30.0
    assert lifespan_after(AsymCachePaper(COST, 64), lambda _: 500.0, 64, **user) == 500.0


def test_a_small_change_is_let_pass_and_a_given_lifespan_stays() -> None:
    assert lifespan_after(AsymCache(COST, 64), lambda _: 32.0, 64) == 30.0
    assert lifespan_after(AsymCache(COST, 64, lifespan_s=7.0), lambda _: 500.0, 64) == 7.0


def test_a_context_counts_once_however_many_of_its_blocks_return() -> None:
    policy = AsymCache(COST, 64)
    lifespan_after(policy, lambda _: 100.0, 63, blocks=5)
    assert len(policy._idle) == 63


def test_a_block_that_was_lost_meanwhile_counts_as_a_pause() -> None:
    """Else only the survivors' short pauses would be learnt from."""
    policy = AsymCache(COST, 64)
    released = [Block(index, ("k", index), index, 1, 0.0, Standing.TOOL) for index in range(4)]
    for block in reversed(released):
        policy.offer(block, 0.0)
    lost = policy.victims(2, frozenset(), 10.0)
    assert lost is not None
    policy.observe(TurnArrived("t", tuple(("k", index) for index in range(4))), 90.0)
    for block in released[2:]:
        policy.touch(block, 90.0)
    assert list(policy._idle._samples) == [90.0]
    policy.observe(TurnArrived("u", (("k", 0),)), 95.0)
    assert len(policy._idle) == 1, "a lost block is a ghost once"


def test_ghosts_are_bounded_by_the_pool() -> None:
    policy = AsymCache(COST, 4)
    for number in range(20):
        policy.offer(Block(number, number, 0, number, float(number)), float(number))
        policy.victims(1, frozenset(), float(number))
    policy.check()
    assert len(policy._ghosts) == 4


def test_lambda_moves_the_turning_point_to_the_mean_idle_time() -> None:
    policy = AsymCache(COST, 64, lifespan_s=30.0, tool=1, online_lambda=True)
    lifespan_after(policy, lambda _: 100.0, 64)
    turning = (policy._ln_lambda + policy._tau0 / policy._beta) / (1 / policy._beta - 1 / policy._alpha)
    assert turning == pytest.approx(100.0)
    lifespan_after(clamped := AsymCache(COST, 64, lifespan_s=1.0, online_lambda=True), lambda _: 100.0, 64)
    turning = (clamped._ln_lambda + clamped._tau0 / clamped._beta) / (1 / clamped._beta - 1 / clamped._alpha)
    assert turning == pytest.approx(10.0)


def test_a_learnt_lifespan_refiles_what_is_evictable() -> None:
    policy = AsymCache(COST, 64)
    waiting = [Block(100 + index, ("w", index), index, 0, 0.0) for index in range(10)]
    for block in waiting:
        policy.offer(block, 0.0)
    lifespan_after(policy, float, 64)
    policy.check()
    now = 65_000.0
    victims = policy.victims(10, frozenset(), now)
    assert victims == sorted(waiting, key=lambda block: block.index), "of one age, the cheapest first"


def test_new_prices_give_the_order_that_they_always_would_have() -> None:
    flat = CostModel(CostProfile(c_lin=1e-4, c_att=0.0), 16)
    told, fresh = AsymCache(flat, 64, lifespan_s=30), AsymCache(COST, 64, lifespan_s=30)
    for number in range(40):
        block = Block(number, number, number * 37 % 400, number // 8, number / 4)
        told.offer(block, number / 4)
        fresh.offer(block, number / 4)
    told.reprice(COST)
    told.check()
    assert told.victims(40, frozenset(), 50.0) == fresh.victims(40, frozenset(), 50.0)
