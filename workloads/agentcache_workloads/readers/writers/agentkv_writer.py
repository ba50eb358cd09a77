"""Writer of `agentkv-trace/1`: sessions back to lines, prompts as deltas, files that appear only when complete."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from agentcache.errors import InputError
from agentcache.files import whole
from agentcache_workloads.readers.trace import Meta, Session, TraceCall


def write_trace(path: str | Path, meta: Meta, sessions: Iterable[Session]) -> tuple[int, int]:
    """Write a trace as the sessions come; a path that ends in `.zst` is compressed. Returns sessions and calls.

    The file appears whole or not at all. The head counts what was written. Raises `InputError` when the folder cannot
    be written.
    """
    path = Path(path)
    n_sessions = n_calls = 0

    def body() -> Iterator[str]:
        nonlocal n_sessions, n_calls
        for session in sessions:
            n_sessions += 1
            n_calls += len(session.calls)
            yield from map(_text, _lines(session))

    def head() -> Iterator[str]:
        yield _text({**meta.record, "n_sessions": n_sessions, "n_calls": n_calls})

    write_lines(path, body(), head)
    return n_sessions, n_calls


def write_lines(path: Path, body: Iterable[str], head: Callable[[], Iterable[str]] = tuple) -> None:
    """Write lines, those of `head` first although they are asked for last; whole or not at all."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as kept:
            _write(kept, body, path.suffix == ".zst")
            kept.seek(0)
            with whole(path) as file:
                _write(file, head(), path.suffix == ".zst")
                shutil.copyfileobj(kept, file)
    except OSError as error:
        raise InputError(f"trace {path} cannot be written: {error.strerror}; nothing was written") from error


def _write(file: IO[bytes], lines: Iterable[str], compressed: bool) -> None:
    """The lines; compressed, they are a frame, and frames may follow each other."""
    if not compressed:
        for line in lines:
            file.write(line.encode())
        return
    import zstandard

    frame = zstandard.ZstdCompressor(level=19, write_checksum=True).compressobj()
    for line in lines:
        file.write(frame.compress(line.encode()))
    file.write(frame.flush())


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def _lines(session: Session) -> Iterator[dict[str, Any]]:
    parent = None
    if session.parent is not None:
        parent = {"sid": session.parent.sid, "turn": session.parent.turn, "offset_s": session.parent.offset_s}
    named = {"kind": "session", "sid": session.sid, "arrival_s": session.arrival_s, "parent": parent}
    yield {**session.record, **named, "n_calls": len(session.calls)}
    before: Sequence[Any] = ()
    for call in session.calls:
        known = {"kind": "call", "sid": session.sid, "turn": call.turn, "after": call.after, "delay_s": call.delay_s}
        record = {
            **call.record,
            **known,
            "in_tok": call.in_tok,
            "out_tok": call.out_tok,
            "prompt": _delta(call, before),
        }
        record.pop("spawn", None)
        if call.spawn:
            record["spawn"] = list(call.spawn)
        yield record
        before = call.items or ()


def _delta(call: TraceCall, before: Sequence[Any]) -> Any:
    """The prompt against the one of the turn before."""
    if call.items is None:
        return call.record["prompt"]
    keep = common_prefix(before, call.items) if type(before) is type(call.items) else 0
    new = call.items[keep:]
    return {
        "enc": call.enc,
        "ref": call.turn - 1 if keep else None,
        "keep": keep,
        "new": new if isinstance(new, str) else list(new),
    }


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items two sequences share from the start."""
    if b[: len(a)] == a:
        return len(a)
    return next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
