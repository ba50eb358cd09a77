"""The residency: standings by hand, and its books under any stream of events and any correct block traffic."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import CheckFailed
from agentcache.model import (
    Block,
    BlocksEvicted,
    Event,
    JobFinished,
    JobStarted,
    Key,
    Release,
    Standing,
    Stop,
    ToolStarted,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
)
from agentcache.policy import make_policy
from agentcache.residency import Residency

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)


def chain(text: str) -> tuple[Key, ...]:
    return tuple(text[: end + 1] for end in range(len(text)))


class Host:
    """A pool that never runs out: keeps one block a key, and releases a turn's blocks when it ends."""

    def __init__(self, policy: str = "lru-holes", capacity_blocks: int = 100, max_contexts: int = 4096) -> None:
        self.residency = Residency(make_policy(policy, COST, capacity_blocks), capacity_blocks, max_contexts)
        self.blocks: dict[Key, Block] = {}
        self.now = 0.0

    def turn(
        self, text: str, stop: Stop = Stop.TOOL_USE, release: bool = True, **ids: str | bool | None
    ) -> list[Block]:
        """A whole turn that reuses what is resident; returns its blocks."""
        self.now += 1.0
        last, name = ids.pop("last", None), f"turn{self.now}"
        keys = chain(text)
        self.residency.observe(TurnArrived(name, keys, **ids), self.now)  # type: ignore[arg-type]
        self.residency.acquire(
            [block for key in keys if (block := self.blocks.get(key)) in self.residency and block], self.now
        )
        for index, key in enumerate(keys):
            self.blocks.setdefault(key, Block(len(self.blocks), key, index))
        self.decisions = self.residency.observe(TurnFinished(name, keys, stop, last=last), self.now)  # type: ignore[arg-type]
        blocks = [self.blocks[key] for key in keys]
        if release:
            self.residency.release(reversed(blocks), self.now)
            self.residency.check()
        return blocks

    def standing(self, text: str) -> list[Standing]:
        return [self.blocks[key].standing for key in chain(text)]


@pytest.mark.parametrize(
    ("stop", "last", "standing"),
    [
        (Stop.TOOL_USE, None, Standing.TOOL),
        (Stop.END_TURN, None, Standing.END_TURN),
        (Stop.LENGTH, None, Standing.UNKNOWN),
        (Stop.LENGTH, False, Standing.TOOL),
        (Stop.UNKNOWN, None, Standing.UNKNOWN),
        (Stop.TOOL_USE, True, Standing.ENDED),
    ],
)
def test_why_a_turn_ended_is_written_on_its_blocks(stop: Stop, last: bool | None, standing: Standing) -> None:
    host = Host()
    blocks = host.turn("abc", stop, job="j", last=last)
    assert {block.standing for block in blocks} == {standing}
    assert {(block.release, block.released_at) for block in blocks} == {(1, 1.0)}
    assert host.decisions == ([Release("j")] if last else [])


def test_a_rewritten_tail_is_superseded_where_nobody_else_holds_it() -> None:
    host = Host()
    host.turn("abcdef", context="1")
    host.turn("abcd", context="2", stop=Stop.END_TURN)
    host.turn("abxy", context="1")
    assert host.standing("abcdef") == [*[Standing.TOOL] * 2, *[Standing.END_TURN] * 2, *[Standing.SUPERSEDED] * 2]
    host.turn("abcdef", context="2")
    assert host.standing("abcdef") == [Standing.TOOL] * 6, "used again"


def test_a_finished_job_releases_its_contexts_and_tells_the_policy() -> None:
    host = Host("asymcache:lifespan_s=30")
    host.turn("sabc", job="j", context="1")
    host.turn("sxyz", job="j", context="2")
    host.turn("s", job="k")
    assert host.residency.observe(JobFinished("j"), host.now) == [Release("j")]
    assert host.standing("sabc") == [Standing.TOOL, *[Standing.ENDED] * 3]
    host.residency.check()
    victims = host.residency.victims(6, host.now)
    assert victims is not None
    assert {block.standing for block in victims} == {Standing.ENDED}
    assert host.residency.evicted_blocks == 6
    host.residency.observe(BlocksEvicted(()), host.now)
    assert len(host.residency.contexts) == 1, "an ended context is forgotten when its own blocks are gone"
    host.residency.check()


def test_blocks_that_come_back_before_their_turn_is_reported_finished() -> None:
    host = Host()
    residency = host.residency
    residency.observe(TurnArrived("t", chain("ab")), 0.0)
    blocks = [Block(index, key, index) for index, key in enumerate(chain("abc"))]
    residency.release(reversed(blocks), 1.0)
    assert {block.standing for block in blocks} == {Standing.UNKNOWN}
    residency.observe(TurnFinished("t", chain("abc"), Stop.TOOL_USE), 1.0)
    assert {block.standing for block in blocks} == {Standing.TOOL}
    residency.check()


def test_a_job_that_ends_while_its_turn_runs_stays_ended() -> None:
    host = Host()
    host.residency.observe(TurnArrived("t", chain("ab"), "j"), 0.0)
    host.residency.observe(JobFinished("j"), 1.0)
    host.residency.observe(TurnFinished("t", chain("ab"), Stop.TOOL_USE), 2.0)
    blocks = [Block(index, key, index) for index, key in enumerate(chain("ab"))]
    host.residency.release(blocks, 2.0)
    assert {block.standing for block in blocks} == {Standing.ENDED}


def test_a_turn_of_an_ended_context_takes_the_end_back() -> None:
    host = Host()
    host.turn("abc", context="c", last=True)
    host.residency.observe(TurnArrived("more", chain("abc"), context="c"), 2.0)
    assert host.standing("abc") == [Standing.UNKNOWN] * 3
    host.residency.check()


def test_an_aborted_turn_leaves_its_prompt_and_a_preempted_one_stays_open() -> None:
    host = Host()
    residency = host.residency
    host.turn("abc", context="c")
    residency.observe(TurnArrived("t", chain("abcd"), context="c"), 2.0)
    residency.observe(TurnPreempted("t"), 2.0)
    context = residency.contexts.get("c")
    assert context is not None
    assert context.turns == {"t"}, "it is queued again"
    residency.observe(TurnAborted("t"), 3.0)
    assert (context.turns, context.chain, context.standing) == (set(), chain("abcd"), Standing.TOOL)
    assert context.idle_since == 3.0
    assert residency.ignored_events == 0


def test_contradictions_are_counted_not_raised() -> None:
    residency = Host().residency
    for event in (
        TurnFinished("nobody", ()),
        TurnAborted("nobody"),
        TurnPreempted("nobody"),
        JobFinished("nobody"),
    ):
        assert residency.observe(event, 0.0) == []
    residency.observe(TurnArrived("t", ()), 0.0)
    residency.observe(TurnArrived("t", ()), 0.0)
    residency.observe(TurnFinished("t", ()), 0.0)
    residency.observe(TurnFinished("t", ()), 0.0)
    assert residency.ignored_events == 6
    residency.check()


def test_users_of_evictable_blocks() -> None:
    host = Host()
    host.turn("sab", context="1")
    host.turn("sxy", context="2")
    assert [host.residency.users(key) for key in ("s", "sa", "none")] == [2, 1, 0]
    host.residency.acquire([host.blocks["sa"]], 5.0)
    assert [host.residency.users(key) for key in ("s", "sa", "sab")] == [2, 0, 1]


def test_victims_are_all_or_none() -> None:
    host = Host()
    blocks = host.turn("abc")
    assert host.residency.victims(4, 2.0) is None
    assert host.residency.victims(3, 2.0, frozenset(blocks[:1])) is None
    assert len(host.residency) == 3
    assert host.residency.victims(2, 2.0, frozenset(blocks[:1])) == blocks[1:]
    host.residency.check()


def test_contexts_are_bounded() -> None:
    host = Host(max_contexts=3)
    for number in range(10):
        host.turn(chr(ord("a") + number) * 3)
    assert len(host.residency.contexts) == 3
    # A forgotten context's blocks are nobody's; the policy still orders them.
    assert host.standing("aaa") == [Standing.UNKNOWN] * 3
    assert len(host.residency) == 30


def test_check_finds_a_wrong_book() -> None:
    host = Host()
    blocks = host.turn("abc")
    blocks[0].standing = Standing.ENDED
    with pytest.raises(CheckFailed, match="stands as ended"):
        host.residency.check()
    blocks[0].standing = Standing.TOOL
    host.residency.policy.forget(blocks[1])
    with pytest.raises(CheckFailed, match="3 blocks are filed"):
        host.residency.check()


TEXTS = st.text("ab", max_size=6)
NAMES = st.sampled_from(["1", "2", "3"])
MAYBE = st.none() | NAMES
EVENTS = st.one_of(
    st.builds(TurnArrived, NAMES, TEXTS.map(chain), MAYBE, MAYBE),
    st.builds(TurnArrived, NAMES, TEXTS.map(chain)),
    st.builds(
        TurnFinished, NAMES, TEXTS.map(chain), st.sampled_from(Stop), st.none(), st.sampled_from([None, True, False])
    ),
    st.builds(TurnAborted, NAMES),
    st.builds(TurnPreempted, NAMES),
    st.builds(JobStarted, NAMES),
    st.builds(JobFinished, NAMES),
    st.builds(ToolStarted, NAMES, st.just("bash")),
)


class AnyStream(RuleBasedStateMachine):
    """Events at random, contradictory ones included; block traffic that keeps to the protocol, copies included."""

    @initialize(
        policy=st.sampled_from(["lru", "lru-holes", "asymcache", "return-index", "ttl+return-index"]),
        bound=st.integers(1, 4),
    )
    def start(self, policy: str, bound: int) -> None:
        self.residency = Residency(make_policy(policy, COST, 40), 40, bound)
        self.bound = bound
        self.held: list[Block] = []
        self.empty = [Block(number, None, 0) for number in range(40)]
        self.evictable: list[Block] = []
        self.now = 0.0

    @rule(event=EVENTS, seconds=st.sampled_from([0.0, 1.0, 100.0]))
    def observe(self, event: Event, seconds: float) -> None:
        self.now += seconds
        for decision in self.residency.observe(event, self.now):
            assert isinstance(decision, Release)

    @rule(text=TEXTS)
    def compute(self, text: str) -> None:
        for index, key in enumerate(chain(text)[: len(self.empty)]):
            block = self.empty.pop()
            block.key, block.index = key, index
            self.held.append(block)

    @rule(count=st.integers(0, 12))
    def release(self, count: int) -> None:
        blocks = [self.held.pop() for _ in range(min(count, len(self.held)))]
        self.residency.release(blocks, self.now)
        self.evictable += blocks

    @rule(data=st.data(), acquire=st.booleans())
    def leave(self, data: st.DataObject, acquire: bool) -> None:
        if not self.evictable:
            return
        blocks = data.draw(st.lists(st.sampled_from(self.evictable), unique=True, max_size=4))
        if acquire:
            self.residency.acquire(blocks, self.now)
            self.held += blocks
        else:
            self.residency.forget(blocks)
            self.empty += blocks
        self.evictable = [block for block in self.evictable if block not in blocks]

    @rule(need=st.integers(0, 10))
    def evict(self, need: int) -> None:
        victims = self.residency.victims(need, self.now)
        assert (victims is None) == (need > len(self.evictable))
        for block in victims or []:
            self.evictable.remove(block)
            self.empty.append(block)
        self.residency.observe(BlocksEvicted(tuple(block.key for block in victims or [])), self.now)

    @invariant()
    def books_balance(self) -> None:
        self.residency.check()
        assert len(self.residency) == len(self.evictable)
        assert all(block in self.residency for block in self.evictable)
        assert not any(block in self.residency for block in self.held + self.empty)
        assert len(self.residency.contexts) <= self.bound


TestAnyStream = AnyStream.TestCase
TestAnyStream.settings = settings(max_examples=60, stateful_step_count=40)
