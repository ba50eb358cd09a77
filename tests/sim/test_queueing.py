"""The queueing simulation: hand-computed cases, stretches against single steps, and what must hold of any run."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import LoadPrice
from agentcache.errors import InputError
from agentcache.model import Stop
from agentcache.policy import make_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.chunking import Chunking
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from agentcache.sim.link import Link
from agentcache.sim.queueing import Call, Engine, Running

SIZE = 16
PLAIN = CostProfile(c_lin=0.001, c_att=0.0, c_dec=0.01)  # 1 ms a prompt token, 10 ms a decode


def engine(
    blocks: int = 64,
    policy: str = "lru",
    admission: str = "fcfs",
    profile: CostProfile = PLAIN,
    kind: type[Engine] = Engine,
    below: tuple[str, int, float] | None = None,
    through: bool = True,
    **options: object,
) -> Engine:
    """`below`: a tier's policy and blocks, and the seconds of loading one."""
    cost = CostModel(profile, SIZE)
    tier, link = None, None
    if below:
        tier, link = Tier(make_policy(below[0], cost, below[1]), below[1], through), Link(LoadPrice(below[2]))
    residency = Residency(make_policy(policy, cost, blocks), blocks, admission=parse_admission(admission), tier=tier)
    return kind(residency, cost, link=link, **options)  # type: ignore[arg-type]


def call(name: str, text: str, output: int = 1, tokens: int | None = None, **more: object) -> Call:
    """A prompt of a block a letter (or `tokens`), and an output of so many tokens."""
    prompt = SIZE * len(text) if tokens is None else tokens
    full = (prompt + output) // SIZE
    keys = tuple(text[: i + 1] for i in range(len(text)))[:full]
    keys += tuple((name, i) for i in range(len(keys), full))
    return Call(name, prompt, output, keys, **more)  # type: ignore[arg-type]


def run(sim: Engine, calls: Sequence[tuple[float, Call]]) -> dict[str, Running]:
    """Send calls at their times; returns them by id when all are finished."""
    waiting = sorted(calls, key=lambda entry: entry[0])
    done: dict[str, Running] = {}
    now = 0.0
    for _ in range(100_000):
        while waiting and waiting[0][0] <= now:
            sim.submit(waiting.pop(0)[1], now)
        if not sim.busy:
            if not waiting:
                return done
            now = waiting[0][0]
            continue
        now, finished = sim.step(now, waiting[0][0] if waiting else float("inf"))
        done |= {entry.call.id: entry for entry in finished}
    raise AssertionError("the simulation does not end")


def test_one_call_takes_its_prefill_and_then_a_step_a_token() -> None:
    done = run(engine(), [(0.0, call("a", "abcd", output=11))])
    assert done["a"].first_token_s == pytest.approx(0.064)
    assert done["a"].finished_s == pytest.approx(0.064 + 10 * 0.010)


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    sim = engine(max_batched_tokens=32)
    assert run(sim, [(0.0, call("a", "abcdef"))])["a"].finished_s == pytest.approx(0.096)
    assert sim.steps == 3


def test_two_calls_share_steps() -> None:
    done = run(engine(), [(0.0, call("a", "abcd", output=3)), (0.0, call("b", "wxyz", output=3))])
    assert done["a"].first_token_s == done["b"].first_token_s == pytest.approx(0.128)
    assert done["a"].finished_s == pytest.approx(0.128 + 2 * 0.020)


def test_a_returning_turn_computes_only_what_is_new() -> None:
    done = run(engine(), [(0.0, call("a", "abcd")), (1.0, call("b", "abcdef"))])
    assert done["b"].cached_tokens == 4 * SIZE
    assert done["b"].first_token_s == pytest.approx(1.0 + 2 * SIZE * 0.001)
    assert (done["b"].paid_s, done["b"].saved_s) == (pytest.approx(0.032), pytest.approx(0.064))


def test_a_prompt_that_is_wholly_resident_computes_its_last_block() -> None:
    done = run(engine(), [(0.0, call("a", "abcd", output=17)), (1.0, call("b", "abcd"))])
    assert done["b"].cached_tokens == 3 * SIZE


def test_blocks_behind_a_hole_are_reused_by_policies_that_may() -> None:
    calls = [(0.0, call("a", "abcdefgh", output=2)), (1.0, call("b", "zyxw", output=2)), (2.0, call("c", "abcdefgh"))]
    prefix = run(engine(blocks=10, policy="lru"), calls)["c"]
    holes = run(engine(blocks=10, policy="lru-holes"), calls)["c"]
    assert (prefix.cached_tokens, prefix.cached_after_hole, prefix.holes) == (5 * SIZE, 0, 0)
    assert (holes.cached_tokens, holes.cached_after_hole, holes.holes) == (4 * SIZE, 4 * SIZE, 1)


def test_a_step_computes_so_many_gaps_of_a_prompt() -> None:
    taken = []
    for max_segments in (1, 8):
        sim = engine(policy="lru-holes", max_segments=max_segments)
        sim.pool.release(sim.pool.store([(1, "ab"), (3, "abcd")], 0.0), 0.0)
        entry = run(sim, [(1.0, call("a", "abcdef"))])["a"]
        assert (entry.cached_tokens, entry.holes) == (2 * SIZE, 2)
        assert entry.finished_s == pytest.approx(1.0 + 4 * SIZE * 0.001)
        taken.append(sim.steps)
    assert taken == [3, 1]


def test_what_was_found_behind_a_hole_outlives_a_preemption() -> None:
    sim = engine(blocks=12, policy="lru-holes", max_batched_tokens=SIZE)
    sim.pool.release(sim.pool.store([(5, "abcdef")], 0.0), 0.0)
    sim.submit(call("a", "abcdefgh"), 1.0)
    now, _ = sim.step(1.0, 1.0)  # the first block is computed, and the sixth is held
    assert [block is not None for block in sim.pool.find(["a", "ab", "abcdef"])] == [True, False, True]
    sim._preempt(sim.running[0], now)
    sim.check()
    assert [block is not None for block in sim.pool.find(["a", "ab", "abcdef"])] == [True, False, True]
    while sim.busy:
        now, finished = sim.step(now, now)
    assert (finished[0].preemptions, finished[0].done) == (1, 1)


def test_the_youngest_is_preempted_when_the_pool_is_full_and_finishes_later() -> None:
    sim = engine(blocks=8)
    done = run(sim, [(0.0, call("a", "abc", output=40)), (0.0, call("b", "xyz", output=40))])
    assert sim.preemptions == 1
    assert (done["a"].preemptions, done["b"].preemptions) == (0, 1)
    assert done["b"].finished_s > done["a"].finished_s  # type: ignore[operator]


def test_a_call_that_could_never_run_is_refused() -> None:
    with pytest.raises(InputError, match="could never run"):
        engine(blocks=3).submit(call("a", "abcd"), 0.0)


def test_adaptive_chunks_keep_decodes_going() -> None:
    calls = [(0.0, call("a", "a", output=200)), (0.5, call("b", "bcdefghijklmnop" * 4))]
    whole = run(engine(blocks=128), calls)
    paced = run(engine(blocks=128, chunking=Chunking("adaptive", tpot_s=0.05, least=16, slack=False)), calls)
    assert paced["a"].finished_s < whole["a"].finished_s + 0.05  # type: ignore[operator]
    assert paced["b"].first_token_s > whole["b"].first_token_s  # type: ignore[operator]


def test_held_turns_wait_and_are_counted() -> None:
    sim = engine(blocks=18, policy="return-index", admission="working-set:release_s=5,headroom=0")
    done = run(
        sim,
        [
            (0.0, call("a", "abcdefghij", output=30, job="a", last=True)),
            (0.1, call("b", "mnopqrstuv", output=2, job="b", last=True)),
        ],
    )
    assert done["b"].scheduled_s == done["a"].finished_s, "both do not fit at once"
    assert done["b"].held_s == pytest.approx(done["a"].finished_s - 0.16)  # type: ignore[operator]


class OneByOne(Engine):
    """Takes every step by itself."""

    def _stretch(self, *args: object) -> int:
        return 1


CALLS = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.text("abc", min_size=1, max_size=10),
        st.integers(1, 60),
        st.integers(0, SIZE - 1),
        st.sampled_from("12345"),
    ),
    min_size=1,
    max_size=12,
).map(
    lambda drawn: [
        (at, call(f"t{i}", text, output, SIZE * len(text) + extra, job=job, stop=Stop.TOOL_USE))
        for i, (at, text, output, extra, job) in enumerate(drawn)
    ]
)
ALL_COSTS = CostProfile(c_lin=1e-3, c_att=1e-7, c_dec=1e-3, c_kv=1e-6, c0=1e-3, floor=5e-3)


@settings(max_examples=60)
@given(
    CALLS,
    st.sampled_from(["lru", "lru-holes", "return-index"]),
    st.sampled_from(["fcfs", "program", "working-set:release_s=1,max_hold_s=2"]),
    st.integers(18, 40),
)
def test_any_load_runs_to_its_end_and_stretches_are_only_faster(
    calls: list[tuple[float, Call]], policy: str, admission: str, blocks: int
) -> None:
    sims = [engine(blocks, policy, admission, ALL_COSTS, kind, max_batched_tokens=64) for kind in (Engine, OneByOne)]
    fast, slow = (run(sim, calls) for sim in sims)
    assert fast.keys() == {each.id for _, each in calls}
    for sim in sims:
        sim.check()
    if admission == "fcfs":  # a rule that looks at the clock sees it at other moments
        for name, entry in fast.items():
            other = slow[name]
            assert (entry.cached_tokens, entry.preemptions) == (other.cached_tokens, other.preemptions)
            assert entry.finished_s == pytest.approx(other.finished_s)
    for entry in fast.values():
        assert entry.arrived_s <= entry.scheduled_s < entry.first_token_s <= entry.finished_s  # type: ignore[operator]
        assert entry.done == entry.call.output_tokens
        assert 0 <= entry.cached_after_hole <= entry.cached_tokens < entry.call.prompt_tokens


TWO = [(0.0, call("a", "abcdefgh", output=2)), (1.0, call("b", "zyxwvuts", output=2)), (2.0, call("c", "abcdefgh"))]
"""Of a pool of 10 blocks the second one takes all but one of the first one's."""


@pytest.mark.parametrize("policy", ["lru", "lru-holes"])
def test_what_left_the_device_is_loaded_before_the_rest_is_computed(policy: str) -> None:
    entry = run(engine(blocks=10, policy=policy, below=("lru", 20, 0.002)), TWO)["c"]
    # One block of the first call is left: its head, or its last one, which is computed anyway.
    there = 2.0 + (7 if policy == "lru-holes" else 6) * 0.002
    assert entry.cached_tokens == 7 * SIZE
    assert entry.first_token_s == pytest.approx(there + SIZE * 0.001)
    assert entry.load_s == pytest.approx(there - 2.0)
    assert entry.loaded_tokens == SIZE * round(entry.load_s / 0.002)


def test_the_head_is_computed_while_the_tail_loads() -> None:
    sim = engine(blocks=10, policy="lru-holes", below=("lru", 20, 0.016))
    entry = run(sim, TWO)["c"]
    assert entry.loaded_tokens == 4 * SIZE, "of seven missing blocks, each as long to load as to compute"
    assert entry.first_token_s == pytest.approx(2.0 + 4 * 0.016 + SIZE * 0.001)


def test_a_load_that_takes_longer_than_to_compute_is_not_made() -> None:
    assert run(engine(blocks=10, below=("lru", 20, 1.0)), TWO)["c"].loaded_tokens == 0


def test_who_finds_what_another_one_loads_waits_for_it() -> None:
    sim = engine(blocks=20, below=("lru", 40, 0.010))
    calls = [*TWO[:2], (1.5, call("x", "mnopqrstuvw", output=2)), TWO[2], (2.001, call("d", "abcdefgh"))]
    done = run(sim, calls)
    assert done["c"].loaded_tokens == 7 * SIZE
    assert done["d"].loaded_tokens == 0
    assert done["d"].cached_tokens == 7 * SIZE
    assert done["d"].first_token_s == pytest.approx(2.07 + 2 * SIZE * 0.001)


def test_decodes_go_on_while_another_turn_loads() -> None:
    sim = engine(blocks=40, below=("lru", 40, 0.1))
    sim.residency.tier.written(sim.residency.tier.write(list(enumerate(call("c", "abcd").keys)), 0.0)[::-1], 0.0)  # type: ignore[union-attr]
    slow = CostProfile(c_lin=0.1, c_att=0.0, c_dec=0.01)
    sim._cost = CostModel(slow, SIZE)
    done = run(sim, [(0.0, call("c", "abcd")), (0.0, call("a", "z", output=11))])
    assert done["c"].loaded_tokens == 3 * SIZE
    assert done["c"].scheduled_s == done["a"].scheduled_s == 0.0
    assert done["a"].first_token_s == pytest.approx(1.6)


@settings(max_examples=60)
@given(
    CALLS,
    st.sampled_from(["lru", "lru-holes", "return-index"]),
    st.sampled_from(["fcfs", "program", "working-set:release_s=1,max_hold_s=2"]),
    st.integers(18, 40),
    st.tuples(st.sampled_from(["lru", "return-index"]), st.integers(1, 60), st.sampled_from([0.0, 1e-3, 1e-2])),
    st.booleans(),
)
def test_any_load_runs_to_its_end_over_a_tier(
    calls: list[tuple[float, Call]],
    policy: str,
    admission: str,
    blocks: int,
    below: tuple[str, int, float],
    through: bool,
) -> None:
    sim = engine(blocks, policy, admission, ALL_COSTS, Checked, below, through, max_batched_tokens=64)
    done = run(sim, calls)
    assert done.keys() == {each.id for _, each in calls}
    for entry in done.values():
        assert entry.arrived_s <= entry.scheduled_s < entry.first_token_s <= entry.finished_s  # type: ignore[operator]
        assert 0 <= entry.loaded_tokens <= entry.cached_tokens < entry.call.prompt_tokens


class Checked(Engine):
    """Recounts itself after every step."""

    def step(self, now: float, until: float, end: float | None = None) -> tuple[float, list[Running]]:
        stepped = super().step(now, until, end)
        self.check()
        return stepped
