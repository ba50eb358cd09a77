"""The judge of `agentcache verify`: the sums over cases, and what is no proof. No engine runs here."""

import msgspec
import pytest

from agentcache.vllm_plugin.lab.verify.engine.cases import Setting
from agentcache.vllm_plugin.lab.verify.engine.outcome import Finding, Outcome, total

LLAMA = Setting("tiny-llama", "float32")


def test_outcomes_add_up() -> None:
    first = Outcome(mismatches=1, tokens=10, max_logprob_diff=0.5, holes=2, paths={"abort": 1, "holes": 2})
    second = Outcome(tokens=5, near_ties=1, max_logprob_diff=0.25, bit_differences=1, paths={"holes": 1}, fault="broke")
    assert total([first, second]) == Outcome(
        mismatches=1,
        near_ties=1,
        tokens=15,
        max_logprob_diff=0.5,
        holes=2,
        bit_differences=1,
        paths={"abort": 1, "holes": 3},
        fault="broke",
    )


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome(), None),
        (Outcome(near_ties=3, tokens=4, max_logprob_diff=1e-5), None),
        (Outcome(fault="CheckFailed: a block is lost", mismatches=2), "a block is lost"),
        (Outcome(mismatches=2), "2 tokens differ"),
        (Outcome(bit_differences=1), "1 answers at equal shapes"),
        (Outcome(max_logprob_diff=2e-4), "differ by up to 0.0002"),
    ],
)
def test_what_makes_a_case_wrong(outcome: Outcome, says: str | None) -> None:
    why = outcome.why_wrong("float32")
    assert (why is None) if says is None else (why is not None and says in why)


def test_what_is_right_in_one_precision_is_wrong_in_the_other() -> None:
    assert Outcome(max_logprob_diff=1e-2).why_wrong("bfloat16") is None
    assert Outcome(max_logprob_diff=1e-2).why_wrong("float32") is not None


SOUND = Outcome(
    near_ties=10,
    max_logprob_diff=1e-6,
    prompt_tokens=5000,
    recomputed_tokens=3000,
    holes=40,
    tokens=1000,
    tokens_after_hole=500,
    equal_answers=24,
)


def failures(outcome: Outcome, control_failed: bool = True) -> list[str]:
    return Finding(LLAMA, 100, outcome, control_failed).failures


def test_a_sound_finding_has_no_failure() -> None:
    assert failures(SOUND) == []


def test_a_negative_control_that_passes_is_a_failure() -> None:
    (failure,) = failures(SOUND, control_failed=False)
    assert "no teeth" in failure


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mismatches": 1}, "1 tokens differ"),
        ({"near_ties": 11}, "11 near-ties in 1000 tokens"),
        ({"max_logprob_diff": 2e-4}, "differ by up to 0.0002"),
        ({"bit_differences": 2}, "2 answers at equal shapes"),
        ({"tokens_after_hole": 0}, "nothing was reused behind a hole"),
    ],
)
def test_each_way_to_prove_nothing_is_a_failure(change: dict[str, float], says: str) -> None:
    (failure,) = failures(msgspec.structs.replace(SOUND, **change))
    assert says in failure


@pytest.mark.parametrize(
    ("finding", "says"),
    [
        (Finding(LLAMA, 4, SOUND, control_failed=True), None),
        (Finding(LLAMA, 4, Outcome(tokens=1000), control_failed=True), "behind a hole"),
        (
            Finding(LLAMA, 4, Outcome(tokens=999, near_ties=10, tokens_after_hole=9), control_failed=True),
            "10 near-ties in 999",
        ),
        (Finding(LLAMA, 4, SOUND, control_failed=True, why="2 tokens differ"), "2 tokens differ"),
    ],
)
def test_a_finding_says_why_it_is_none(finding: Finding, says: str | None) -> None:
    assert (finding.failures == []) if says is None else (len(finding.failures) == 1 and says in finding.failures[0])
