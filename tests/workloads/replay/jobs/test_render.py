from collections.abc import Callable
from pathlib import Path

import pytest

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.replay.jobs.jobs import build_job
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import Renderer, Sizes
from agentcache_workloads.replay.spec import Selection

VOCABULARY = 512


@pytest.fixture
def plan(tiny: Path) -> ReplayPlan:
    return load_plan(tiny, Selection())


def test_lengths_by_hand(make_meta: Callable[..., Meta], make_session: Callable[..., Session]) -> None:
    # 64-token blocks as 8 tokens: a tail of 20 is 2.5 -> 2 (ties to even), an output of 100 is 12.5 -> 12.
    session = make_session("s", [[1, 2, 3], [5]], tails=[20, 0], outs=[100, 0])
    job = build_job(session, {"s": session})
    renderer = Renderer(make_meta(), 8, VOCABULARY, 1)
    assert [renderer.sizes(turn) for turn in job.turns] == [Sizes(24, 2, 12), Sizes(8, 1, 1)]
    prompt, output = renderer.render(job, job.turns[0])
    assert (len(prompt), len(output)) == (26, 12)


def test_a_hashed_tail_is_cut_out_of_its_own_block(
    make_meta: Callable[..., Meta], make_session: Callable[..., Session]
) -> None:
    session = make_session("s", [[1, 2, 3]], tails=[-48])  # two blocks and 16 tokens of the third
    turn = build_job(session, {"s": session}).turns[0]
    assert Renderer(make_meta(tail_hashed=True), 8, VOCABULARY, 1).sizes(turn) == Sizes(16, 2, 8)


def test_equal_ids_give_equal_tokens_and_lengths_are_as_promised(plan: ReplayPlan) -> None:
    renderer = Renderer(plan.meta, 3, VOCABULARY, seed=5)
    by_id: dict[int, tuple[int, ...]] = {}
    for job in plan.jobs:
        for turn in job.turns:
            prompt, output = renderer.render(job, turn)
            sizes = renderer.sizes(turn)
            assert (len(prompt), len(output)) == (sizes.prompt, sizes.output)
            assert all(3 <= token < VOCABULARY for token in prompt + output)
            for position, item in enumerate(turn.call.items or ()):
                tokens = tuple(prompt[3 * position : 3 * position + 3])
                assert by_id.setdefault(item, tokens) == tokens


def test_what_a_turn_says_is_what_the_next_prompt_contains(plan: ReplayPlan) -> None:
    """Where a turn extends the one before, prompt and output are its first tokens, as far as it goes."""
    renderer = Renderer(plan.meta, 4, VOCABULARY, seed=1)
    extended = 0
    for job in plan.jobs:
        for turn in job.turns:
            if turn.followed_by is None:
                continue
            upcoming = job.turns[turn.followed_by]
            items, later = turn.call.items or (), upcoming.call.items or ()
            prompt, output = renderer.render(job, turn)
            ahead = renderer.render(job, upcoming)[0]
            if items == later[: len(items)] and len(ahead) > len(prompt):
                stream = (prompt + output)[: len(ahead)]
                assert ahead[: len(stream)] == stream
                extended += 1
    assert extended > plan.calls / 2


def test_seeds(plan: ReplayPlan) -> None:
    job = plan.jobs[0]
    first = [Renderer(plan.meta, 2, 50_000, seed).render(job, job.turns[0]) for seed in (1, 1, 2)]
    assert first[0] == first[1]
    same = sum(a == b for a, b in zip(first[0][0], first[2][0], strict=True))
    assert same <= 2


def test_ids_of_a_session_scope_mean_nothing_in_another(
    make_meta: Callable[..., Meta], make_session: Callable[..., Session]
) -> None:
    prompts = {}
    for scope in ("trace", "session"):
        renderer = Renderer(make_meta(hash_scope=scope), 16, 50_000, 1)
        for sid in ("s", "t"):
            session = make_session(sid, [[1]])
            job = build_job(session, {sid: session})
            prompts[scope, sid] = renderer.render(job, job.turns[0])[0][:16]
    assert prompts["trace", "s"] == prompts["trace", "t"]
    assert prompts["session", "s"] != prompts["session", "t"]


def test_forgetting_a_job_changes_nothing(plan: ReplayPlan) -> None:
    renderer, job = Renderer(plan.meta, 2, VOCABULARY, 1), plan.jobs[0]
    before = renderer.render(job, job.turns[-1])
    renderer.forget(job)
    assert renderer.render(job, job.turns[-1]) == before


def test_ids_and_token_counts_that_disagree(
    make_meta: Callable[..., Meta], make_session: Callable[..., Session]
) -> None:
    session = make_session("s", [[1, 2, 3]], tails=[64 * 9])
    turn = build_job(session, {"s": session}).turns[0]
    with pytest.raises(InputError, match="turn s/0 has 3 block ids for 768 prompt tokens, expected 12"):
        Renderer(make_meta(), 2, VOCABULARY, 1).sizes(turn)
