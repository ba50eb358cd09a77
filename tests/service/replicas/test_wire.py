"""Calls on a socket: what arrives is what was sent, and both ends notice when the other one goes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.service.replicas import wire
from agentcache.service.replicas.wire import SECRET_BYTES, Address, Out, Wires, cut, frame, listen
from agentcache.service.routing.call import Head, Plan, RoutedCall

CALL = RoutedCall("POST", "/x", b"q=1", ((b"a", b"b"),), b"body" * 100_000)
PLAN = Plan(7, {"r": 3}, "home", "job", "me", frozenset({"r2"}), "me-1")
HEAD = Head(200, ((b"k", b"v"),), "r", b"0,")


class Place:
    """A replica's end: answers with a head and numbered pieces."""

    def __init__(self, pieces: int = 3) -> None:
        self.pieces = pieces
        self.calls: list[tuple[RoutedCall, Plan]] = []
        self.cancelled = 0
        self.fails = False
        self.waits = False

    async def serve(self, call: RoutedCall, plan: Plan, out: Out) -> None:
        self.calls.append((call, plan))
        try:
            await out(HEAD)
            await out(b"")
            for number in range(1, self.pieces):
                await out(b"%d," % number)
                await asyncio.sleep(0)
            if self.fails:
                raise ValueError("broken")
            if self.waits:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def run(place: Place, test: Callable[[Address], Coroutine[Any, Any, None]]) -> None:
    async def work() -> None:
        server, address = await listen(place.serve, "127.0.0.1")
        async with server:
            await test(address)

    asyncio.run(work())


async def read(parts: AsyncIterator[Head | bytes]) -> tuple[Head, bytes]:
    head, *pieces = [part async for part in parts]
    assert isinstance(head, Head)
    return head, head.body + b"".join(pieces)  # type: ignore[arg-type]


def test_a_call_and_its_answer_arrive_as_they_are() -> None:
    place = Place(1000)

    async def test(address: Address) -> None:
        head, body = await read(Wires().ask(address, CALL, PLAN))
        assert head == HEAD and body == b"".join(b"%d," % number for number in range(1000))
        assert place.calls == [(CALL, PLAN)]

    run(place, test)


def test_a_connection_serves_one_call_after_another_and_never_two() -> None:
    place = Place()
    ends: set[int] = set()

    async def test(address: Address) -> None:
        wires = Wires()
        connect = asyncio.open_connection

        async def counted(*args: Any) -> Any:
            reader, writer = await connect(*args)
            ends.add(writer.get_extra_info("sockname")[1])
            return reader, writer

        asyncio.open_connection = counted  # type: ignore[assignment]
        try:
            for _ in range(3):
                await read(wires.ask(address, CALL, PLAN))
            assert len(ends) == 1
            await asyncio.gather(*(read(wires.ask(address, CALL, PLAN)) for _ in range(5)))
            assert len(ends) == 5
        finally:
            asyncio.open_connection = connect

    run(place, test)


def test_connections_that_a_burst_has_opened_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "IDLE", 4)
    place, wires = Place(), Wires()

    async def test(address: Address) -> None:
        for _ in range(3):
            await asyncio.gather(*(read(wires.ask(address, CALL, PLAN)) for _ in range(20)))
            assert [len(idle) for idle in wires._idle.values()] == [4]

    run(place, test)


def test_a_caller_that_leaves_ends_the_work() -> None:
    place = Place()
    place.waits = True

    async def test(address: Address) -> None:
        async with aclosing(Wires().ask(address, CALL, PLAN)) as parts:
            await anext(parts)
        while not place.cancelled:
            await asyncio.sleep(0.01)

    run(place, test)


def test_an_answer_without_an_end_is_an_error() -> None:
    place = Place()
    place.fails = True

    async def test(address: Address) -> None:
        parts = Wires().ask(address, CALL, PLAN)
        assert await anext(parts) == HEAD
        with pytest.raises(OSError):
            await read(parts)

    run(place, test)


def test_a_replica_that_has_gone_is_an_error_at_once_and_a_new_one_is_reached() -> None:
    place = Place()
    wires = Wires()

    async def test(address: Address) -> None:
        await read(wires.ask(address, CALL, PLAN))
        server, other = await listen(place.serve, "127.0.0.1")
        await read(wires.ask(other, CALL, PLAN))
        server.close()
        for _, writer in wires._idle[other]:
            writer.close()
            await writer.wait_closed()
        with pytest.raises(OSError):
            await read(wires.ask(other, CALL, PLAN))
        await read(wires.ask(address, CALL, PLAN))

    run(place, test)


@pytest.mark.parametrize("secret", ["0" * SECRET_BYTES, "", "short"])
def test_nobody_is_heard_without_the_secret(secret: str) -> None:
    place = Place()

    async def test(address: Address) -> None:
        with pytest.raises(OSError):
            await read(Wires().ask(Address(address.host, address.port, secret), CALL, PLAN))
        assert not place.calls

    run(place, test)


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_frames_are_cut_as_they_were_made_however_they_arrive(bodies: list[bytes], step: int) -> None:
    sent, buffer, got = b"".join(map(frame, bodies)), bytearray(), []
    for at in range(0, len(sent), step):
        buffer += sent[at : at + step]
        got += cut(buffer)
    assert got == bodies and not buffer
