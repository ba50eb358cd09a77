"""The judge of `agentcache verify`: what counts as a mismatch, what as a near-tie, and what is no proof."""

import dataclasses
import math
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.lab.verify.compare import MARGINS, Answer, Tally
from agentcache.vllm_plugin.lab.verify.experiment import BLOCK_SIZE, CONTEXTS, MAX_LEN, Finding, prompts


def answer(*tokens: int, logprob: float = -0.5, margin: float = 1.0) -> Answer:
    return Answer(tokens, (logprob,) * len(tokens), (margin,) * len(tokens))


def test_an_answer_is_read_with_its_margins() -> None:
    def best(**logprobs: float) -> dict[int, SimpleNamespace]:
        return {int(token[1:]): SimpleNamespace(logprob=value) for token, value in logprobs.items()}

    output = SimpleNamespace(token_ids=[7, 9], logprobs=[best(t7=-0.25, t8=-2.25), best(t9=-1.0, t3=-1.5)])
    assert Answer.of(output) == Answer((7, 9), (-0.25, -1.0), (2.0, 0.5))


def test_a_token_that_is_not_the_best_keeps_the_margin_of_the_two_best() -> None:
    best = {1: SimpleNamespace(logprob=-3.0), 2: SimpleNamespace(logprob=-0.5), 3: SimpleNamespace(logprob=-0.75)}
    read = Answer.of(SimpleNamespace(token_ids=[1], logprobs=[best]))
    assert (read.logprobs, read.margins) == ((-3.0,), (0.25,))


def test_equal_answers_agree() -> None:
    tally = Tally(1e-3)
    tally.compare(answer(1, 2, 3), answer(1, 2, 3))
    assert tally == Tally(1e-3, tokens=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_margin_decides_between_mismatch_and_near_tie(dtype: str) -> None:
    limit = MARGINS[dtype]
    tally = Tally(limit)
    tally.compare(answer(1, margin=limit), answer(2))
    assert (tally.mismatches, tally.near_ties) == (0, 1)
    tally.compare(answer(1, margin=limit * 1.01), answer(2))
    assert (tally.mismatches, tally.near_ties) == (1, 1)


def test_the_limits_are_the_published_ones() -> None:
    assert MARGINS == {"float32": 1e-3, "bfloat16": 5e-2}


def test_what_follows_a_difference_is_not_compared() -> None:
    for margin in (1.0, 0.0):
        tally = Tally(1e-3)
        tally.compare(answer(1, 2, 3, 4, margin=margin), answer(1, 9, 8, 7))
        assert tally.tokens == 2
        assert tally.mismatches + tally.near_ties == 1


def test_no_number_is_a_mismatch_even_where_the_token_is_the_same() -> None:
    tally = Tally(1e-3)
    tally.compare(answer(1), answer(1, logprob=math.nan))
    assert (tally.mismatches, tally.max_logprob_diff) == (1, 0.0)


def test_the_largest_difference_is_kept() -> None:
    tally = Tally(1e-3)
    tally.compare(answer(1, 2), Answer((1, 2), (-0.5, -0.75), (1.0, 1.0)))
    tally.compare(answer(1), answer(1, logprob=-0.625))
    assert tally.max_logprob_diff == 0.25


def test_answers_of_different_lengths_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Tally(1e-3).compare(answer(1, 2), answer(1))


SOUND = Finding(
    dtype="float32",
    patterns=100,
    mismatches=0,
    near_ties=10,
    max_logprob_diff=1e-6,
    prompt_tokens=5000,
    recomputed_tokens=3000,
    holes=40,
    negative_control_failed=True,
    tokens_compared=1000,
    tokens_after_hole=500,
    bit_exact_answers=24,
    bit_differences=0,
)


def test_a_sound_finding_has_no_failure() -> None:
    assert SOUND.failures == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mismatches": 1}, "1 tokens differ"),
        ({"near_ties": 11}, "11 near-ties in 1000 tokens"),
        ({"max_logprob_diff": 2e-4}, "differ by up to 0.0002"),
        ({"bit_differences": 2}, "2 answers at equal shapes"),
        ({"negative_control_failed": False}, "no teeth"),
        ({"tokens_after_hole": 0}, "nothing was reused behind a hole"),
    ],
)
def test_each_way_to_prove_nothing_is_a_failure(change: dict[str, int], says: str) -> None:
    (failure,) = dataclasses.replace(SOUND, **change).failures  # type: ignore[arg-type]
    assert says in failure


@given(st.integers(0, 2**32))
def test_prompts_fit_the_engine_and_vary_as_agents_do(seed: int) -> None:
    made = prompts(random.Random(seed), 512)
    assert made == prompts(random.Random(seed), 512)
    assert len(made) == CONTEXTS
    assert all(BLOCK_SIZE < len(prompt) < MAX_LEN - BLOCK_SIZE for prompt in made)
    assert all(3 <= token < 512 for prompt in made for token in prompt)


def test_prompts_share_beginnings_and_end_on_and_off_blocks() -> None:
    made = [prompt for seed in range(20) for prompt in prompts(random.Random(seed), 512)]
    assert {len(prompt) % BLOCK_SIZE == 0 for prompt in made} == {True, False}
    beginnings = [tuple(prompt[:BLOCK_SIZE]) for prompt in made]
    assert len(set(beginnings)) < len(beginnings) / 2
