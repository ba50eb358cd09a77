"""A file that gets lines from a thread of its own: who writes one never waits for the disk, and never fails."""

import atexit
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from agentcache.errors import ConfigError

logger = logging.getLogger(f"vllm.{__name__}")  # as vLLM's own, whose handlers it has

MOST = 4096
"""Lines that wait for the disk; what comes while there are so many is dropped."""


class Lines:
    """Appends what `encode` makes of each item, and a newline. `dropped` counts what is not in the file, or in part.

    Raises `ConfigError` where the file cannot be opened: a folder, a path below a file, a pipe that nobody reads.
    """

    def __init__(self, path: str, encode: Callable[[Any], bytes], most: int = MOST) -> None:
        self._path, self._encode, self._most = path, encode, most
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._overflowed = self._failed = 0  # each is counted by one thread
        self._torn = False
        try:
            # A pipe without a reader would be waited for.
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            os.set_blocking(self._file, True)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"receipts cannot be written to {path!r}: {why}; not started",
                hint="name a file in a folder that exists",
            ) from error
        self._thread = threading.Thread(target=self._run, name="agentcache-lines", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        return self._overflowed + self._failed

    def write(self, item: Any) -> None:
        """Soon in the file; the item must not change any more."""
        if self._queue.qsize() >= self._most:
            self._overflowed += 1
        else:
            self._queue.put(item)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, as long as that takes at most; a reader that has stopped is not waited for."""
        atexit.unregister(self.close)
        self._queue.put(_END)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            try:
                self._append(self._encode(item) + b"\n")
            except Exception as error:
                self._failed += 1
                if self._failed == 1:
                    logger.warning("AgentCache: %s cannot be written, lines are dropped: %s", self._path, error)
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        """In one piece, for others may append to the same file. Raises `OSError`."""
        if self._torn:
            line = b"\n" + line
        written = os.write(self._file, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(f"{written} of {len(line)} bytes were taken")


_END = object()
