"""Calls on a socket: from an ingress straight to a replica, past Ray's messages, of which every token would cost two.

A call is a secret, a length (4 bytes, big endian) and the call with its plan in MessagePack. Its answer is frames, each
a length and a body: the head, the pieces as they come, and an empty one at the end. A connection carries one call at a
time; who gives up closes it.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from agentcache.service.routing.call import Head, Plan, RoutedCall

logger = logging.getLogger(__name__)

Out = Callable[[Head | bytes], Awaitable[None]]
Serve = Callable[[RoutedCall, Plan, Out], Awaitable[None]]
SECRET_BYTES = 32
IDLE = 256
"""Connections to one replica that are kept open between calls, at most."""
AT_ONCE = 1 << 16
"""Bytes that are read at once: pieces that have piled up by then travel on together."""

_calls = msgspec.msgpack.Decoder(tuple[RoutedCall, Plan])
_heads = msgspec.msgpack.Decoder(Head)
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica takes calls, and the secret (hexadecimal) of those who may call."""

    host: str
    port: int
    secret: str


async def listen(serve: Serve, host: str) -> tuple[asyncio.Server, Address]:
    """Take calls on a free port of `host`; `serve` answers each, and is cancelled when its caller leaves."""
    secret = secrets.token_hex(SECRET_BYTES // 2)
    server = await asyncio.get_running_loop().create_server(lambda: _Door(serve, secret.encode()), host)
    return server, Address(host, server.sockets[0].getsockname()[1], secret)


class _Door(asyncio.Protocol):
    """A replica's end of one connection."""

    def __init__(self, serve: Serve, secret: bytes) -> None:
        self._serve, self._secret = serve, secret
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < SECRET_BYTES + 4:
            return
        if self._task or not hmac.compare_digest(self._buffer[:SECRET_BYTES], self._secret):
            self._transport.abort()  # who sends this is no ingress of ours
        elif frames := cut(self._buffer, SECRET_BYTES):
            self._task = asyncio.create_task(self._work(*_calls.decode(frames[0])))

    async def _work(self, call: RoutedCall, plan: Plan) -> None:
        try:
            await self._serve(call, plan, self._out)
            self._transport.write(frame(b""))
        except Exception as error:
            # The caller cannot be told: its answer may have begun. It sees that this one has no end.
            logger.warning("a call to %s has failed: %s", call.path, type(error).__name__)
            self._transport.abort()
        finally:
            self._task = None

    async def _out(self, part: Head | bytes) -> None:
        if part:  # an empty frame is the end
            self._transport.write(frame(_encode(part) if isinstance(part, Head) else part))
        await self._writable.wait()


class Wires:
    """An ingress's connections to replicas, kept open between calls; those to replicas that have gone, until the next
    one is opened.
    """

    def __init__(self) -> None:
        self._idle: dict[Address, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def ask(self, address: Address, call: RoutedCall, plan: Plan) -> AsyncGenerator[Head | bytes, None]:
        """The answer: its head with a first piece, then the rest. Leaving the iterator cancels the replica's work.

        Raises `OSError` when the replica cannot be reached, or has gone before the end of its answer.
        """
        reader, writer = await self._connection(address)
        ended = begun = False
        try:
            writer.write(address.secret.encode() + frame(_encode((call, plan))))
            await writer.drain()
            buffer = bytearray()
            while not ended:
                if not (data := await reader.read(AT_ONCE)):
                    raise ConnectionError(f"{address.host}:{address.port} has gone in the middle of an answer")
                buffer += data
                frames = cut(buffer)
                ended = bool(frames) and not frames[-1]
                if frames and not begun:
                    begun = True
                    yield _heads.decode(frames.pop(0))
                if piece := b"".join(frames):
                    yield piece
        finally:
            idle = self._idle.setdefault(address, [])
            if ended and len(idle) < IDLE:
                idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self, address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while idle := self._idle.get(address):
            reader, writer = idle.pop()
            if not reader.at_eof():
                return reader, writer
        # What a replica that has gone left here goes too.
        self._idle = {of: kept for of, kept in self._idle.items() if kept and not kept[-1][0].at_eof()}
        return await asyncio.open_connection(address.host, address.port)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def cut(buffer: bytearray, skip: int = 0) -> list[bytes]:
    """Take the frames that are whole out of a buffer, with `skip` bytes before the first one."""
    frames, at = [], skip
    while len(buffer) >= at + 4 and len(buffer) >= (end := at + 4 + int.from_bytes(buffer[at : at + 4], "big")):
        frames.append(bytes(buffer[at + 4 : end]))
        at = end
    if frames:
        del buffer[:at]
    return frames


__all__ = ["Address", "Out", "Serve", "Wires", "listen"]
