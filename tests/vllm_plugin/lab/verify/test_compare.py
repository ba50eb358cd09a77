"""What counts as the same answer, what as a near-tie."""

import math
from types import SimpleNamespace

import pytest

from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer


def answer(*tokens: int, logprob: float = -0.5, margin: float = 1.0) -> GivenAnswer:
    return GivenAnswer(tokens, (logprob,) * len(tokens), (margin,) * len(tokens))


def test_an_answer_is_read_with_its_margins() -> None:
    def best(**logprobs: float) -> dict[int, SimpleNamespace]:
        return {int(token[1:]): SimpleNamespace(logprob=value) for token, value in logprobs.items()}

    output = SimpleNamespace(token_ids=[7, 9], logprobs=[best(t7=-0.25, t8=-2.25), best(t9=-1.0, t3=-1.5)])
    assert GivenAnswer.of(output) == GivenAnswer((7, 9), (-0.25, -1.0), (2.0, 0.5))


def test_a_token_that_is_not_the_best_keeps_the_margin_of_the_two_best() -> None:
    best = {1: SimpleNamespace(logprob=-3.0), 2: SimpleNamespace(logprob=-0.5), 3: SimpleNamespace(logprob=-0.75)}
    read = GivenAnswer.of(SimpleNamespace(token_ids=[1], logprobs=[best]))
    assert (read.logprobs, read.margins) == ((-3.0,), (0.25,))


def test_equal_answers_agree() -> None:
    tally = AnswerTally(1e-3)
    tally.compare(answer(1, 2, 3), answer(1, 2, 3))
    assert tally == AnswerTally(1e-3, tokens=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_margin_decides_between_mismatch_and_near_tie(dtype: str) -> None:
    limit = MARGINS[dtype]
    tally = AnswerTally(limit)
    tally.compare(answer(1, margin=limit), answer(2))
    assert (tally.mismatches, tally.near_ties) == (0, 1)
    tally.compare(answer(1, margin=limit * 1.01), answer(2))
    assert (tally.mismatches, tally.near_ties) == (1, 1)


def test_the_limits_are_the_published_ones() -> None:
    assert MARGINS == {"float32": 1e-3, "bfloat16": 5e-2}


def test_what_follows_a_difference_is_not_compared() -> None:
    for margin in (1.0, 0.0):
        tally = AnswerTally(1e-3)
        tally.compare(answer(1, 2, 3, 4, margin=margin), answer(1, 9, 8, 7))
        assert tally.tokens == 2
        assert tally.mismatches + tally.near_ties == 1


def test_no_number_is_a_mismatch_even_where_the_token_is_the_same() -> None:
    tally = AnswerTally(1e-3)
    tally.compare(answer(1), answer(1, logprob=math.nan))
    assert (tally.mismatches, tally.max_logprob_diff) == (1, 0.0)


def test_the_largest_difference_is_kept() -> None:
    tally = AnswerTally(1e-3)
    tally.compare(answer(1, 2), GivenAnswer((1, 2), (-0.5, -0.75), (1.0, 1.0)))
    tally.compare(answer(1), answer(1, logprob=-0.625))
    assert tally.max_logprob_diff == 0.25


def test_answers_of_different_lengths_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shorter"):
        AnswerTally(1e-3).compare(answer(1, 2), answer(1))
