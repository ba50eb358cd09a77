"""Files that appear whole or not at all, a port that is free, and what this machine is."""

import csv
import io
import json
import os
import platform
import random
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from agentcache.errors import ConfigError, EngineError


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends; if it raises, nothing has changed.

    It is readable for all, as if `open` had made it. Pipes and devices are written to as they are. Raises `OSError`.
    """
    path = Path(path).absolute()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_whole(path: str | Path, data: str | bytes, consequence: str = "the result is lost") -> None:
    """Write a file so that it appears complete or not at all; text as UTF-8. Raises `ConfigError`."""
    try:
        with whole(path) as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; {consequence}",
            hint="name a file in a folder that exists and is writable",
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Write rows under these columns, or those of the first one, as `write_whole` does; what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0] if columns is None else columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def check_writable(flag: str, path: Path | None) -> None:
    """Fail before the work rather than after it: raises `ConfigError` if the file could not be written."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"{flag} {path} cannot be written; nothing was started", hint="its folder must exist")


def free_port() -> int:
    """A port that nobody listens on now, below those that the system hands out to others meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EngineError("of 100 ports between 20000 and 32000 none is free; nothing was started", "name one with --port")


def cpu_model() -> str:
    """The processor by its maker's name; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()
