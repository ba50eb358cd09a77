"""A call in Serve's books: what Serve is told, and when."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="the books are Ray Serve's")

from agentcache.service.replicas import place
from agentcache.service.replicas.place import Place
from agentcache.service.routing.call import Plan


class Handle:
    """Serve's handle, which writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.running: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def choose_replica(self, plan: Plan) -> AsyncIterator[Any]:
        self.told.append("reserve")
        try:
            yield SimpleNamespace(replica_id="r1", replica_metadata={"host": "h", "port": 1, "secret": "s"})
        finally:
            self.told.append("release")

    def dispatch(self, chosen: Any, request: str) -> asyncio.Future[None]:
        self.told.append(f"run {request}")
        self.running.append(asyncio.get_running_loop().create_future())
        return self.running[-1]


def run(work: Callable[[Handle, Place], Coroutine[Any, Any, None]]) -> list[str]:
    async def whole() -> list[str]:
        handle, plan = Handle(), Plan(request="q")
        taken = Place(handle, plan)  # type: ignore[arg-type]
        assert (await taken.take()).port == 1
        assert plan.replica == "r1"
        await work(handle, taken)
        return handle.told

    return asyncio.run(whole())


async def end(handle: Handle) -> None:
    """The replica says that the call has ended there."""
    while not handle.running:
        await asyncio.sleep(0)
    handle.running[0].set_result(None)


def test_a_short_call_is_counted_at_its_end() -> None:
    async def work(handle: Handle, taken: Place) -> None:
        assert handle.told == ["reserve"]
        await asyncio.gather(taken.leave(answered=True), end(handle))

    assert run(work) == ["reserve", "run q", "release"]


def test_a_long_call_runs_a_moment_after_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "RUNS_AFTER_S", 0.01)

    async def work(handle: Handle, taken: Place) -> None:
        while len(handle.told) < 2:
            await asyncio.sleep(0.001)
        await asyncio.gather(taken.leave(answered=True), end(handle))

    assert run(work) == ["reserve", "run q", "release"]


def test_a_call_that_was_lost_at_once_gives_its_place_back() -> None:
    async def work(handle: Handle, taken: Place) -> None:
        await taken.leave(answered=False)
        assert taken._timer and taken._timer.cancelled()

    assert run(work) == ["reserve", "release"]


def test_a_call_that_is_lost_later_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "RUNS_AFTER_S", 0.0)

    async def work(handle: Handle, taken: Place) -> None:
        while not handle.running:
            await asyncio.sleep(0)
        await taken.leave(answered=False)
        assert handle.running[0].cancelled()

    assert run(work) == ["reserve", "run q", "release"]


def test_a_failure_of_serves_keeps_no_place() -> None:
    async def work(handle: Handle, taken: Place) -> None:
        async def fail() -> None:
            while not handle.running:
                await asyncio.sleep(0)
            handle.running[0].set_exception(RuntimeError("the replica is no longer available"))

        await asyncio.gather(taken.leave(answered=True), fail())

    assert run(work) == ["reserve", "run q", "release"]
