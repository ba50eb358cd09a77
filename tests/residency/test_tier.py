"""The tier: places by hand, and both levels of a residency under any stream of events and any correct traffic."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from agentcache.cost.loads import LoadPrice
from agentcache.errors import CheckFailed
from agentcache.model import Block, BlocksStored, ContextChanged, Event, JobFinished, Key, Standing, TurnArrived
from agentcache.policy import make_policy
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.policy.base import Foresees
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from tests.policy.test_conformance import CORNERS, ORDERS
from tests.residency.test_residency import COST, TEXTS, AnyStream, Host, chain


def tier(capacity_blocks: int, policy: str = "lru", through: bool = True) -> Tier:
    return Tier(make_policy(policy, COST, capacity_blocks), capacity_blocks, through)


def places(text: str) -> list[tuple[int, Key]]:
    return list(enumerate(chain(text)))


def put(below: Tier, text: str, now: float = 0.0) -> list[Block]:
    """A whole copy of a chain, tail first."""
    blocks = below.write(places(text), now)
    below.written(blocks[::-1], now)
    return blocks


def held(below: Tier, text: str) -> list[bool]:
    return [key in below for key in chain(text)]


def test_a_copy_is_found_when_it_is_whole() -> None:
    below = tier(4)
    blocks = below.write(places("ab"), 0.0)
    assert held(below, "ab") == [False, False]
    assert below.write(places("abc"), 0.0)[0].key == "abc", "what is on its way is not written again"
    below.written(blocks[::-1], 1.0)
    assert held(below, "abc") == [True, True, False]
    assert below.find(chain("abc")) == [*blocks, None]
    below.check()


def test_a_copy_that_failed_leaves_its_place_empty() -> None:
    below = tier(2)
    below.failed(below.write(places("ab"), 0.0))
    below.check()
    assert held(below, "ab") == [False, False]
    assert len(put(below, "xy")) == 2
    assert below.evicted_blocks == 0


def test_what_is_evicted_follows_the_policy_and_what_is_loaded_stays() -> None:
    below = tier(3)
    old, younger, _ = put(below, "abc")
    below.pin([old], 1.0)
    below.pin([old], 1.0)
    assert [block.key for block in put(below, "xyz", 2.0)] == ["x", "xy"], "as many as fit, from the first on"
    assert held(below, "abc") == [True, False, False]
    below.unpin([old], 3.0)
    assert put(below, "pqr", 3.0)[0].key == "p"
    assert "a" in below, "another load still reads it"
    below.unpin([old], 4.0, loaded=False)
    assert (below.loaded_blocks, below.evicted_blocks) == (1, 4)
    assert younger.key != "ab"
    below.check()


def test_what_is_used_is_as_young_as_what_is_new() -> None:
    below = tier(3)
    put(below, "a", 0.0)
    put(below, "xy", 1.0)
    below.use(["a", "none"], 2.0)
    put(below, "p", 3.0)
    assert [held(below, text) for text in ("a", "xy")] == [[True], [True, False]]


def test_what_is_on_the_device_too_leaves_first_until_it_is_there_no_more() -> None:
    below = tier(3, through=False)
    device = [Block(number, key, number) for number, key in places("abc")]
    copies = below.sink(device[::-1], 0.0)
    assert [(block, place.key) for block, place in copies] == [(block, block.key) for block in device]
    below.written([place for _, place in copies], 0.0)
    below.rise(chain("ab"), 1.0)
    assert below.sink([Block(7, "ab", 1)], 2.0) == [], "it is below already"
    assert put(below, "x", 3.0)
    assert [held(below, text) for text in ("abc", "x")] == [[False, True, True], [True]]
    assert below.evicted_blocks == 0, "nothing was lost"
    below.check()


def test_a_key_that_two_turns_have_computed_is_one_block_below() -> None:
    below = tier(4, through=False)
    put(below, "ab")
    twice = [key for key in chain("ab") for _ in range(2)]
    below.rise(twice, 1.0)
    below.check()
    assert (len(below.policy), below.held_blocks) == (0, 2)
    below.fall(twice, 2.0)
    below.check()
    assert len(below.policy) == 2
    below.use(twice, 3.0)
    below.check()
    assert len(below.policy) == 2
    twins = [Block(number, key, number // 2) for number, key in enumerate(("x", "x", "xy", "xy"))]
    copies = below.sink(twins, 4.0)
    assert [place.key for _, place in copies] == ["x", "xy"]
    assert all(block.key == place.key for block, place in copies)
    below.written([place for _, place in copies], 4.0)
    below.drop([*twice, "x", "x"], 5.0)
    below.check()
    assert [held(below, text) for text in ("ab", "xy")] == [[False, False], [False, True]]


def test_what_two_turns_have_computed_at_once_is_heard_once() -> None:
    below = tier(4, through=False)
    core = Residency(make_policy("lru", COST, 8), 8, tier=below)
    put(below, "ab")
    core.observe(BlocksStored(("a", "a", "ab", "a")), 1.0)
    core.check()
    assert len(below.policy) == 0, "both levels have them: they leave first"
    core.withdrawn(["a", "a"], 2.0)
    core.check()
    assert [block.key for block in below.find(["a", "ab"]) if block and block in below.policy] == ["a"]


def test_what_an_ended_job_leaves_is_not_copied() -> None:
    assert tier(3, through=False).sink([Block(0, "a", 0, standing=Standing.ENDED)], 0.0) == []


def test_what_was_loaded_is_doubled_and_what_was_not_is_as_before() -> None:
    below = tier(2, through=False)
    first, second = put(below, "ab")
    below.pin([second, first], 1.0)
    below.unpin([first], 2.0, loaded=False)
    below.unpin([second], 2.0)
    put(below, "x", 3.0)
    assert [held(below, text) for text in ("ab", "x")] == [[True, False], [True]]
    below.rise(["a"], 4.0)
    below.fall(["a", "none"], 5.0)
    assert put(below, "p", 6.0)[0].key == "p"
    assert [held(below, text) for text in ("a", "x")] == [[True], [False]], "as young as when it was left alone"


def test_a_reset_forgets_everything_and_waits_for_copies() -> None:
    below = tier(4)
    blocks = put(below, "ab")
    below.pin(blocks[:1], 1.0)
    with pytest.raises(ValueError, match="1 blocks are being loaded, 0 written"):
        below.reset(1.0)
    below.unpin(blocks[:1], 2.0)
    coming = below.write(places("x"), 2.0)
    with pytest.raises(ValueError, match="0 blocks are being loaded, 1 written"):
        below.reset(2.0)
    below.failed(coming)
    below.reset(3.0)
    assert (below.held_blocks, held(below, "ab")) == (0, [False, False])
    below.check()


def test_blocks_below_stand_as_their_contexts_do() -> None:
    below = tier(20, "return-index")
    host = Host()
    residency = host.residency = Residency(make_policy("return-index", COST, 100), 100, tier=below)
    host.turn("sabc", job="j", context="1")
    put(below, "sabc", host.now)
    assert {block.standing for block in below.find(chain("sabc")) if block} == {Standing.TOOL}
    residency.observe(JobFinished("j"), host.now)
    assert {block.standing for block in below.find(chain("sabc")) if block} == {Standing.ENDED}
    residency.check()
    residency.victims(4, host.now)
    assert residency.contexts.get("1"), "an ended context is known while blocks of it are in either level"
    below.drop(chain("sabc"), host.now)
    residency.observe(JobFinished("other"), host.now)
    assert residency.contexts.get("1") is None
    residency.check()


def test_a_remnant_is_known_while_either_level_has_a_block_of_it() -> None:
    below = tier(20, "return-index")
    host = Host()
    residency = host.residency = Residency(make_policy("return-index", COST, 100), 100, tier=below)
    host.turn("abcd", context="1")
    put(below, "abcd", host.now)
    host.turn("abx", context="1")
    left = chain("abcd")[2:]
    assert [residency.contexts.owners(key).standing for key in left] == [Standing.SUPERSEDED] * 2
    residency.forget([host.blocks[key] for key in left])
    assert [residency.contexts.owners(key).standing for key in left] == [Standing.SUPERSEDED] * 2
    residency.check()
    below.drop(left, host.now)
    assert not any(residency.contexts.owners(key) for key in left)
    residency.check()


def test_admission_counts_on_half_of_what_loads_spare() -> None:
    below = tier(200, "return-index")
    rule = WorkingSetConfig(headroom=0.0)
    residency = Residency(make_policy("return-index", COST, 100), 100, admission=rule, tier=below)
    for number in range(4):
        keys = tuple(f"{number}-{i}" for i in range(60))
        residency.observe(TurnArrived(str(number), keys, str(number)), 0.0)
    rebuild_s = COST.block_seconds(32_768 // COST.block_size)
    for share, running in ((1.0, [True, False]), (0.5, [True, True]), (0.0, [True, True])):
        residency.price_loads(COST, LoadPrice(share * rebuild_s))
        residency.admit(1.0)
        assert [residency.may_run(str(number)) for number in range(2)] == running
        assert not residency.may_run("3")
        residency.check()
    assert residency.may_run("2"), "180 blocks of 100 and the 100 that are lent"


def test_without_a_tier_loads_have_no_price() -> None:
    residency = Residency(make_policy("return-index", COST, 100), 100, admission=WorkingSetConfig())
    residency.price_loads(COST, LoadPrice(0.0))
    assert residency.admission and residency.admission.lent_blocks == 0


def test_a_place_that_nobody_accounts_for_is_seen() -> None:
    below = tier(2)
    put(below, "a")
    below._empty.pop()
    with pytest.raises(CheckFailed, match="0 empty"):
        below.check()


class BothLevels(AnyStream):
    """The same events and device traffic, with copies down and loads that end late, early or never."""

    below: str

    @initialize(
        policy=st.sampled_from(["lru", "return-index"]),
        bound=st.integers(1, 4),
        places=st.integers(1, 30),
        through=st.booleans(),
    )
    def start(self, policy: str, bound: int, places: int, through: bool) -> None:  # type: ignore[override]
        super().start(policy, bound)
        self.tier = tier(places, self.below, through)
        if isinstance(self.tier.policy, Foresees):
            self.tier.policy.foresee("future", {})
        self.residency = Residency(make_policy(policy, COST, 40), 40, bound, tier=self.tier)
        self.writing: list[Block] = []
        self.loading: list[Block] = []

    @rule(text=TEXTS)
    def copy_down(self, text: str) -> None:
        before = {key for key in chain(text) if key in self.tier}
        blocks = self.tier.write(places(text), self.now)
        assert before.isdisjoint(block.key for block in blocks)
        assert not any(block.key in self.tier for block in blocks)
        assert not {block.id for block in blocks} & {block.id for block in self.writing + self.loading}
        self.writing += blocks

    @rule(count=st.integers(0, 8), whole=st.booleans())
    def copied(self, count: int, whole: bool) -> None:
        blocks, self.writing = self.writing[:count], self.writing[count:]
        if whole:
            self.tier.written(blocks[::-1], self.now)
        else:
            self.tier.failed(blocks)
        assert all((block.key in self.tier) is whole for block in blocks)

    @rule(text=TEXTS)
    def copy_down_at_once(self, text: str) -> None:
        """Else few examples come as far as to hold what their other rules are of."""
        put(self.tier, text, self.now)

    @rule(text=TEXTS)
    def load(self, text: str) -> None:
        blocks = [block for block in self.tier.find(chain(text)) if block]
        self.tier.pin(blocks, self.now)
        self.loading += blocks

    @rule(count=st.integers(0, 8), whole=st.booleans())
    def loaded(self, count: int, whole: bool) -> None:
        blocks, self.loading = self.loading[:count], self.loading[count:]
        self.tier.unpin(blocks, self.now, whole)

    @rule(need=st.integers(0, 10))
    def evict(self, need: int) -> None:
        """What the device gives up is copied, or known to be below, or of an ended job, or there is no room."""
        victims = self.residency.victims(need, self.now)
        if not victims:
            return
        copies = self.tier.sink(victims, self.now)
        assert {block for block, _ in copies} <= set(victims)
        assert all(block.key == place.key and block.standing is not Standing.ENDED for block, place in copies)
        self.writing += [place for _, place in copies]
        for block in victims:
            self.evictable.remove(block)
            self.empty.append(block)

    @rule(text=TEXTS, twins=st.booleans())
    def rise(self, text: str, twins: bool) -> None:
        """Two turns that compute one block in one step are told of together."""
        self.residency.observe(BlocksStored(chain(text) * (1 + twins)), self.now)

    @rule(text=TEXTS, twins=st.booleans())
    def fall(self, text: str, twins: bool) -> None:
        """Blocks in use lose their keys."""
        self.residency.withdrawn(chain(text) * (1 + twins), self.now)

    @rule(text=TEXTS, twins=st.booleans())
    def use(self, text: str, twins: bool) -> None:
        self.tier.use([*reversed(chain(text))] * (1 + twins), self.now)

    @rule(text=TEXTS, twins=st.booleans())
    def drop(self, text: str, twins: bool) -> None:
        self.tier.drop(chain(text) * (1 + twins), self.now)
        assert {key for key in chain(text) if key in self.tier} <= {block.key for block in self.loading}

    @rule()
    def reset(self) -> None:
        if not self.writing and not self.loading:
            self.tier.reset(self.now)
            assert self.tier.held_blocks == 0

    @invariant()
    def what_is_loaded_stays(self) -> None:
        assert all(self.tier.find([block.key]) == [block] for block in self.loading)


@pytest.mark.parametrize("spec", ["lru", "return-index"])
def test_both_levels_balance(spec: str) -> None:
    machine = type("Machine", (BothLevels,), {"below": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40))


@pytest.mark.parametrize("spec", [*ORDERS, *(corner for corner in CORNERS if not corner.startswith("service+"))])
def test_every_policy_orders_a_tier(spec: str) -> None:
    machine = type("Machine", (BothLevels,), {"below": spec})
    run_state_machine_as_test(machine, settings=settings(max_examples=8, stateful_step_count=30))


def test_both_levels_hear_which_turns_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    below = tier(8)
    core = Residency(make_policy("lru", COST, 4), 4, admission=WorkingSetConfig(headroom=0.0), tier=below)
    heard: dict[str, list[tuple[str, bool]]] = {"device": [], "tier": []}
    for level, policy in (("device", core.policy), ("tier", below.policy)):

        def observe(event: Event, now: float, level: str = level) -> None:
            if isinstance(event, ContextChanged):
                heard[level].append((event.context.job, event.context.held))

        monkeypatch.setattr(policy, "observe", observe)
    for job, text in (("a", "abc"), ("b", "xyz")):
        core.observe(TurnArrived(job, chain(text), job), 0.0)
    core.admit(0.0)
    assert heard["device"][-1] == ("b", True)
    assert heard["tier"] == heard["device"]
