"""Token-seconds of idle blocks: cases counted by hand, a recount at every event, and the simulator's own number."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.cost import CostProfile
from agentcache.model import BlocksEvicted, BlocksStored, TurnAborted, TurnArrived, TurnFinished
from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.replay.accounts.idle import IdleMeter
from agentcache_workloads.replay.engines.queueing import simulate
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job
from agentcache_workloads.replay.jobs.render import Renderer
from tests.workloads.replay.specs import sim_spec


def test_only_what_waits_for_a_return_counts() -> None:
    meter = IdleMeter(16)
    meter.expect("a0", "a", returns=True)
    meter.hear(TurnArrived("a0", (1, 2)), 0.0)
    meter.hear(BlocksStored((1, 2, 3)), 1.0)
    meter.hear(TurnFinished("a0", (1, 2, 3)), 2.0)  # three blocks of 16 tokens begin to wait
    meter.hear(BlocksEvicted((1,)), 5.0)  # 3 s x 48 tokens
    assert meter.token_s == 144
    meter.expect("b0", "b", returns=False)
    meter.hear(TurnArrived("b0", (1, 2)), 7.0)  # 2 s x 32 tokens; block 2 is in use from now on
    meter.hear(TurnFinished("b0", (1, 2)), 10.0)  # 3 s x 16 tokens; nothing of b follows
    assert meter.token_s == 144 + 64 + 48
    meter.expect("a1", "a", returns=False)
    meter.hear(TurnArrived("a1", (1, 2, 3)), 11.0)  # 1 s x 32 tokens
    meter.hear(TurnFinished("a1", (1, 2, 3)), 20.0)
    meter.hear(BlocksEvicted((2, 3)), 90.0)  # a is over: what it left is not kept for anybody
    assert meter.token_s == 144 + 64 + 48 + 32
    meter.check()


def test_shared_blocks_and_copies_count_once() -> None:
    meter = IdleMeter(10)
    for name in "ab":
        meter.expect(name, name, returns=True)
        meter.hear(TurnArrived(name, (1,)), 0.0)
        meter.hear(BlocksStored((1,)), 0.0)  # each computed its own copy
        meter.hear(TurnFinished(name, (1,)), 0.0)
    meter.hear(BlocksEvicted((1,)), 4.0)
    meter.hear(TurnAborted("of nobody"), 6.0)  # the other copy is still there
    assert meter.token_s == 60
    meter.give_up(["a"])
    meter.hear(BlocksEvicted((1,)), 7.0)  # b still waits for it
    meter.hear(BlocksEvicted((1,)), 9.0)  # and one that was there before anybody listened
    assert meter.token_s == 70
    meter.check()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stored", "evicted"]), st.lists(st.integers(0, 5), max_size=4)),
        st.tuples(st.sampled_from(["arrived", "finished", "aborted", "gave up"]), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_the_count_is_that_of_a_recount(events: list[tuple[str, object]]) -> None:
    """Each step is a second long; four contexts with prompts that overlap take turns."""
    meter = IdleMeter(1)
    copies: Counter[int] = Counter()
    open_turns: dict[int, str] = {}
    paused: set[int] = set()
    expected = 0

    def chain(context: int) -> tuple[int, ...]:
        return tuple(range(context, context + 3))

    for now, (what, arg) in enumerate(events, 1):
        # What held in the second before this event.
        waiting = {key for context in paused for key in chain(context)}
        used = {key for context in open_turns for key in chain(context)}
        expected += sum(key in waiting and key not in used for key in copies)
        match what, arg:
            case "stored", list(keys):
                copies.update(keys)
                meter.hear(BlocksStored(tuple(keys)), now)
            case "evicted", list(keys):
                copies = +(copies - Counter(keys))
                meter.hear(BlocksEvicted(tuple(keys)), now)
            case "arrived", int(context) if context not in open_turns:
                open_turns[context] = f"{context}/{now}"
                paused.discard(context)
                meter.expect(open_turns[context], str(context), returns=context != 3)
                meter.hear(TurnArrived(open_turns[context], chain(context)), now)
            case "finished", int(context) if context in open_turns:
                meter.hear(TurnFinished(open_turns.pop(context), chain(context)), now)
                paused |= {context} - {3}
            case "aborted", int(context) if context in open_turns:
                meter.hear(TurnAborted(open_turns.pop(context)), now)
            case _:
                meter.hear(TurnAborted("of nobody"), now)
                if what == "gave up" and isinstance(arg, int):
                    meter.give_up([str(arg)])
                    paused.discard(arg)
        meter.check()
        assert meter.token_s == expected


def chat(sid: str, first: int, pause_s: float) -> PlannedJob:
    calls = [
        make_call(0, in_tok=128, out_tok=1, items=(first, first + 1), delay_s=0.0, kind="start", stop="tool_use"),
        make_call(1, in_tok=192, out_tok=1, items=(first, first + 1, first + 2), after=0, delay_s=pause_s, kind="tool"),
    ]
    return build_job(make_session(sid, calls, agent="made"), {})


@pytest.mark.parametrize("policy", ["vllm-lru", "return-index"])
def test_the_simulator_says_what_can_be_counted_by_hand(policy: str) -> None:
    """Two prompts of two blocks, in a pool for both, wait 50 s and 30 s; with room for one alone, one is lost."""

    def run(cache_blocks: int, *jobs: PlannedJob) -> float:
        meta = make_meta("made", len(jobs), 2 * len(jobs), 64, {})
        meter = IdleMeter(64)
        result = simulate(
            sim_spec(policy, cache_blocks, 64, slots=2),
            jobs,
            Renderer(meta, 64, 1000, 0),
            CostProfile(c_lin=1e-3, c_att=0.0),
            idle=meter,
        )
        assert result.idle_token_s == meter.token_s
        return meter.token_s

    a, b = chat("a", 1, 50.0), chat("b", 11, 30.0)
    assert run(4, a) == pytest.approx(128 * 50)
    assert run(12, a, b) == pytest.approx(128 * (50 + 30))
    assert run(5, a, b) < 128 * (50 + 30)
