"""What the service says of contexts corrects what an ingress believes."""

import asyncio
import logging

import pytest

from agentcache.api.messages import ContextState, Report
from agentcache.service.front import watch
from agentcache.service.routing.homes import Homes
from tests.service.stand import Local


def report(engine: str, tokens: int, seq: int) -> Report:
    state = ContextState("red/s", "red/j", "idle", tokens=96, runs=((0, tokens),))
    return Report(engine=engine, epoch="e", seq=seq, full=True, contexts=(state,))


def test_sessions_and_jobs_are_learnt() -> None:
    service, homes = Local(), Homes()
    service.directory.report(report("r1", 64, 1), 0.0)
    for name in ("red/s", "red/other"):
        homes.served(name, "r9", 999, now=0.0)
    watch.learn(homes, service.directory.snapshot(None, 10, 0.0), now=100.0)
    assert homes.of("red/s").tokens == homes.of("red/j").tokens == {"r1": 64}
    assert homes.of("red/other").tokens == {"r9": 999}


def test_a_service_that_is_away_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watch, "PERIOD_S", 0.001)
    caplog.set_level(logging.WARNING)
    service = Local()
    asked = 0

    async def snapshot(tenant: str | None, limit: int) -> None:
        nonlocal asked
        asked += 1
        raise ConnectionError("nobody there")

    service.snapshot = snapshot  # type: ignore[assignment,method-assign]

    async def run() -> None:
        task = asyncio.create_task(watch.watch(Homes(), service, asyncio.Event()))
        while asked < 5:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(run())
    assert caplog.text.count("away") == 1
