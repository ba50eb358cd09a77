"""Writer of `agentkv-trace/1`: sessions back to lines, prompts as deltas, files that appear only when complete."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Call, Meta, Session


def write_trace(path: str | Path, meta: Meta, sessions: Iterable[Session]) -> None:
    """Write a trace; a path that ends in `.zst` is compressed. The file appears whole or not at all.

    Counts in the head are those of `meta`. Raises `InputError` when the folder cannot be written.
    """
    path = Path(path)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in _lines(meta, sessions)).encode()
    if path.suffix == ".zst":
        import zstandard

        text = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(text)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"trace {path} cannot be written: {error.strerror}; nothing was written") from error


def _lines(meta: Meta, sessions: Iterable[Session]) -> Iterator[dict[str, Any]]:
    yield {**meta.record, "n_sessions": meta.n_sessions, "n_calls": meta.n_calls}
    for session in sessions:
        yield {**session.record, "n_calls": len(session.calls)}
        before: Sequence[Any] = ()
        for call in session.calls:
            record = {**call.record, "prompt": _delta(call, before)}
            record.pop("spawn", None)
            if call.spawn:
                record["spawn"] = list(call.spawn)
            yield record
            before = call.items or ()


def _delta(call: Call, before: Sequence[Any]) -> Any:
    """The prompt against the one of the turn before."""
    if call.items is None:
        return call.record["prompt"]
    keep = common_prefix(before, call.items)
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
