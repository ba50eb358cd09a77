"""The router's own part: what it ranks, and what it counts from the choice to the end of a request."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="the router is Ray Serve's")

from agentcache.service.router import ResidencyRouter
from agentcache.service.routing.call import Plan

RATES = {"rates": (1.0, 0.0)}  # a second a token


def replica(name: str, **stats: Any) -> Any:
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats=stats)


def request(plan: Plan | None, number: str = "1") -> Any:
    metadata = SimpleNamespace(internal_request_id=number, session_id="")
    kwargs = {"plan": plan} if plan else {}
    return SimpleNamespace(args=[], kwargs=kwargs, metadata=metadata)


def guest(prompt: Any, session: str = "", number: str = "1", **more: Any) -> Any:
    """As `ray.serve.llm` sends it: the body is an argument, the session is Serve's."""
    metadata = SimpleNamespace(internal_request_id=number, session_id=session)
    asked = SimpleNamespace(model="m", prompt=prompt, **more)
    sent = asyncio.get_running_loop().create_future()
    return SimpleNamespace(args=[asked, {"headers": {}}], kwargs={}, metadata=metadata, future=sent)


@pytest.fixture
def router() -> ResidencyRouter:
    made = ResidencyRouter.__new__(ResidencyRouter)  # without Serve's controller, which it asks for nothing here
    made.initialize_state()
    return made


def names(ranks: list[list[Any]]) -> list[list[str]]:
    return [[replica.replica_id.unique_id for replica in rank] for rank in ranks]


def test_residency_is_weighed_against_the_queue(router: ResidencyRouter) -> None:
    replicas = [replica("a", **RATES), replica("b", **RATES)]

    async def run() -> None:
        first = Plan(tokens=100, resident={"a": 90})
        assert names(await router.choose_replicas(replicas, request(first, "1"))) == [["a"], ["b"]]
        assert (first.replica, first.rebuild_s) == ("a", 10.0)
        # Sixty seconds wait at a then: cheaper to rebuild elsewhere.
        await router.choose_replicas([replicas[0]], request(Plan(tokens=50), "2"))
        assert names(await router.choose_replicas(replicas, request(Plan(tokens=100, resident={"a": 50}), "3")))[0] == [
            "b"
        ]
        for plan in router.ledger.open.values():
            plan.ended = True
        assert names(await router.choose_replicas(replicas, request(Plan(tokens=100, resident={"a": 50}), "4")))[0] == [
            "a"
        ]
        assert list(router.ledger.open) == ["4"]

    asyncio.run(run())


def test_what_others_have_sent_counts(router: ResidencyRouter) -> None:
    busy = replica("a", waiting_s={"other": 500.0, "me": 9000.0}, **RATES)
    idle = replica("b", waiting_s={"me": 9000.0}, **RATES)

    async def run() -> None:
        plan = Plan(tokens=100, resident={"a": 100}, source="me")
        assert names(await router.choose_replicas([busy, idle], request(plan)))[0] == ["b"]

    asyncio.run(run())


def test_a_rebuild_where_others_are_served_costs_them_too(router: ResidencyRouter) -> None:
    home = replica("a", waiting_s={"other": 150.0}, **RATES)

    async def run() -> None:
        plan = Plan(tokens=100, resident={"a": 100}, source="me")
        assert names(await router.choose_replicas([home, replica("b", **RATES)], request(plan)))[0] == ["b"]
        plan.ended = True
        busy = replica("b", open={"other": 1, "me": 9}, **RATES)
        assert names(await router.choose_replicas([home, busy], request(plan)))[0] == ["a"]

    asyncio.run(run())


def test_a_replica_that_has_said_nothing_is_as_fast_as_another(router: ResidencyRouter) -> None:
    async def run() -> None:
        plan = Plan(tokens=100, home="new")
        assert names(await router.choose_replicas([replica("old", **RATES), replica("new")], request(plan)))[0] == [
            "new"
        ]
        assert plan.rebuild_s == 100.0

    asyncio.run(run())


def test_requests_without_a_plan_and_none_at_all_are_anybodys(router: ResidencyRouter) -> None:
    replicas = [replica("a"), replica("b")]

    async def run() -> None:
        assert names(await router.choose_replicas(replicas, request(None))) == [["a", "b"]]
        assert names(await router.choose_replicas(replicas, None)) == [["a", "b"]]
        assert await router.choose_replicas([], request(Plan())) == []

    asyncio.run(run())


@pytest.mark.parametrize("named", [True, False])
def test_a_request_without_a_plan_goes_where_its_session_or_its_text_was(router: ResidencyRouter, named: bool) -> None:
    numbers = itertools.count()

    async def ask(replicas: list[Any], prompt: str, session: str) -> str:
        number = str(next(numbers))
        first, *_ = names(await router.choose_replicas(replicas, guest(prompt, session if named else "", number)))
        router.on_request_completed(None, number)  # type: ignore[arg-type]
        return first[0]

    async def run() -> None:
        both = [replica("a"), replica("b")]
        told = {f"{number}": f"{number} times upon a time " * 100 for number in range(8)}
        for session, prompt in told.items():
            await ask([both[int(session) % 2]], prompt, session)
        gone = [await ask(both, prompt + "and then " * 50, session) for session, prompt in told.items()]
        assert gone == ["a", "b"] * 4

    asyncio.run(run())


def test_nothing_is_left_of_requests_that_have_ended_or_were_given_up(router: ResidencyRouter) -> None:
    async def run() -> None:
        for number in range(100):
            asked = guest("word " * 200, number=f"{number}") if number % 3 else request(plan := Plan(), f"{number}")
            await router.choose_replicas([replica("a")], asked)
            if number % 3 == 0:
                plan.ended = True  # as the ingress does, whatever became of it
            elif number % 3 == 1:
                asked.future.cancel()  # Serve's way to say that nobody waits for it any more
                await asyncio.sleep(0)
            else:
                router.on_request_completed(None, f"{number}")  # type: ignore[arg-type]
            assert len(router.ledger.open) == 1
            router.ledger.forget()
            assert not router.ledger.open

    asyncio.run(run())


def test_what_has_no_plan_waits_until_its_prefill_is_due(router: ResidencyRouter) -> None:
    async def run() -> None:
        await router.choose_replicas([replica("a", rates=(1e-4, 0.0))], guest("word " * 200))
        assert router.ledger.waiting_s()["a"] > 0
        while router.ledger.waiting_s():
            await asyncio.sleep(0.01)
        assert router.ledger.requests() == {"a": 1}

    asyncio.run(run())
