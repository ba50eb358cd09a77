"""How long Serve counts a call, in whatever order its two halves come, and that nothing is left of it."""

import asyncio
from itertools import permutations

import pytest

from agentcache.service.replicas.counted_calls import CallTally
from agentcache.service.routing.call import Plan


class Call:
    """One call of a replica, which ends as it is told."""

    def __init__(self, tally: CallTally, request: str) -> None:
        self.tally, self.plan = tally, Plan(request=request)
        self.ends = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        async def work() -> None:
            with self.tally.running(self.plan):
                await self.ends.wait()

        self.task = asyncio.create_task(work())
        while self.plan.request not in self.tally.open:
            await asyncio.sleep(0)

    async def end(self) -> None:
        assert self.task
        self.ends.set()
        await self.task

    async def leave(self) -> None:
        assert self.task
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize(
    "order", [o for o in permutations(("begin", "end", "hold")) if o.index("begin") < o.index("end")]
)
def test_serve_counts_a_call_to_its_end(order: tuple[str, ...]) -> None:
    async def run() -> None:
        tally = CallTally()
        call = Call(tally, "q")
        held: asyncio.Task[None] | None = None
        for step in order:
            if step == "hold":
                held = asyncio.create_task(tally.hold("q"))
                await asyncio.sleep(0)
            else:
                await getattr(call, step)()
            assert held is None or held.done() <= (not tally.open)
        assert held
        await held
        assert len(tally) == 0

    asyncio.run(run())


def test_calls_that_are_cancelled_early_leave_nothing() -> None:
    async def run() -> None:
        tally = CallTally()
        for number in range(1000):
            call = Call(tally, f"{number}")
            await call.begin()
            if number % 2:  # Serve had been told, and is told to forget it
                held = asyncio.create_task(tally.hold(f"{number}"))
                await asyncio.sleep(0)
                held.cancel()
            await call.leave()
        assert len(tally) == 0

    asyncio.run(run())


def test_what_never_comes_is_not_waited_for() -> None:
    """Of a call that was lost on its way, Serve is told late; of one that Serve was not told of, nothing stays."""

    async def run() -> None:
        tally = CallTally(late_s=0.01)
        await tally.hold("never")
        assert len(tally) == 0
        for number in range(100):
            call = Call(tally, f"{number}")
            await call.begin()
            await call.end()
        await asyncio.sleep(0.02)
        await (last := Call(tally, "last")).begin()
        await last.end()
        assert len(tally) == 1
        await tally.hold("last")
        assert len(tally) == 0

    asyncio.run(run())


def test_a_call_that_begins_after_serve_has_waited_is_counted() -> None:
    async def run() -> None:
        tally = CallTally(late_s=0.05)
        call = Call(tally, "q")
        held = asyncio.create_task(tally.hold("q"))
        await asyncio.sleep(0)
        await call.begin()
        await asyncio.sleep(0.1)  # longer than what never comes is waited for
        assert not held.done()
        await call.end()
        await held
        assert len(tally) == 0

    asyncio.run(run())
