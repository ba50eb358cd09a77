"""Frames on a pipe: a length (4 bytes, big endian), then the body."""

from typing import IO

from agentcache.errors import InputError

MAX_FRAME_BYTES = 64 << 20


def write_frame(pipe: IO[bytes], body: bytes) -> None:
    pipe.write(len(body).to_bytes(4, "big") + body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next body; None at the end of the stream. Raises `InputError` where a frame is cut short or too long."""
    head = pipe.read(4)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    if len(head) < 4 or length > MAX_FRAME_BYTES:
        raise InputError(f"a frame says {length} bytes, expected at most {MAX_FRAME_BYTES}; the stream is not read on")
    body = pipe.read(length)
    if len(body) < length:
        raise InputError(f"a frame of {length} bytes ends after {len(body)}; the stream is not read on")
    return body
