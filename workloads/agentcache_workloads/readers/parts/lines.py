"""The lines of a text file, plain or zstd-compressed, numbered from 1 and never the whole file in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from agentcache.errors import InputError

_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES = 1 << 14
LONGEST_LINE_BYTES = 1 << 28
_WINDOW_BYTES = 1 << 27  # what `zstd --long=27` writes


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line). Raises `InputError` for a file that is missing, cut short, corrupt or not UTF-8."""
    number = 0
    try:
        with open(path, "rb") as raw:
            for number, line in enumerate(_split(_decompressed(raw)), 1):
                yield number, line.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        where = f" at line {number}" if number else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"trace {path} cannot be read{where}: {reason}; nothing was done",
            hint="check the path, and the file's checksum against the one it was published with",
        ) from error


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []  # of a line that goes on; joined once, so that a long line costs no more than its length
    size = 0
    for chunk in chunks:
        *lines, last = chunk.split(b"\n")
        for line in lines:
            rest.append(line)
            yield b"".join(rest)
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > LONGEST_LINE_BYTES:
            raise EOFError(f"a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
    if any(rest):
        yield b"".join(rest)


def _decompressed(raw: IO[bytes]) -> Iterator[bytes]:
    """The content in chunks, whatever the file is called: its first bytes say whether it is compressed."""
    head = raw.read(len(_MAGIC))
    raw.seek(0)
    chunks = iter(lambda: raw.read(_CHUNK_BYTES), b"")
    if head != _MAGIC:
        yield from chunks
        return
    import zstandard

    # zstandard's stream reader takes a file that ends inside a frame for complete, so frames are walked here.
    frame = None
    for chunk in chunks:
        while chunk:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
            try:
                yield frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise EOFError(f"corrupt zstd data ({error})") from error
            chunk = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame:
        raise EOFError("the zstd data ends inside a frame: the file is cut short")
