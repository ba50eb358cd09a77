"""Our metrics on vLLM's own /metrics: each engine keeps three small files, and the API server reads them when asked.

vLLM's statistics have no room for others' numbers, and a logger of statistics that is merely installed switches them
on for every engine. So the numbers go their own way: what the meter holds is written by a thread of the engine's
process as `prometheus_client` writes the metrics of one of several processes. Where vLLM runs several API servers, the
files lie in their common folder (`PROMETHEUS_MULTIPROC_DIR`) and its page has them; else they lie in a folder named
after the process that started the engine, and `show` adds them to that process's page, having rung the engine up for
the latest. An engine without a common folder that runs on another machine, or was started by Ray, is on no page.
"""

import atexit
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentcache.files import whole
from agentcache.vllm_plugin.accounts.metrics import METRICS, Meter

logger = logging.getLogger(f"vllm.{__name__}")  # as vLLM's own, whose handlers it has

PERIOD_S = 0.5
PATIENCE_S = 0.5
"""How long a scrape waits for an engine that it has rung up."""
FILES = {"counter": "counter", "gauge": "gauge_mostrecent", "histogram": "histogram"}
"""How `prometheus_client` begins the names of files of each kind."""


def folder(process: int) -> Path:
    """Where the engines that this process has started leave their files; processes are numbered by namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return Path(tempfile.gettempdir()) / f"agentcache-{os.getuid()}" / f"{namespace}-{process}"


def starter() -> int:
    """The process that has started this one as a part of its own; itself, if none has."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


class Page:
    """The files of one engine, kept up to date by a thread; `gauge()` brings the meter's gauges up to date before."""

    def __init__(self, meter: Meter, gauge: Callable[[], None], model: str, engine: str) -> None:
        common = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._folder = Path(common) if common else folder(starter())
        self._own = not common
        self._name = f"agentcache{next(_pages)}-{os.getpid()}"
        self._meter, self._gauge = meter, gauge
        self._labels = {"model_name": model, "engine": engine}
        self._keys: dict[tuple[str, ...], bytes] = {}
        self._written: dict[str, bytes] = {}
        self._failed = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentcache-page", daemon=True)

    def start(self) -> None:
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """The engine ends, and its series with it."""
        atexit.unregister(self.close)
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        with suppress(OSError):
            for kind in FILES:
                self._path(kind).unlink(missing_ok=True)
            if self._own:
                self._folder.rmdir()  # the last one's call succeeds

    def write(self) -> None:
        """Bring the files up to date. Raises `OSError` where they cannot be written; each is then as it was."""
        if self._own:
            _private(self._folder)
        self._gauge()
        pieces: dict[str, list[bytes]] = {kind: [] for kind in FILES}
        for key, value in dict(self._meter.values).items():
            pieces[METRICS[key[0]].kind] += self._entry(key, value)
        for key, row in dict(self._meter.histograms).items():
            *counts, total = row
            for bound, count in zip((*METRICS[key[0]].buckets, "+Inf"), counts, strict=True):
                pieces["histogram"] += self._entry(key, count, "_bucket", str(bound))
            pieces["histogram"] += self._entry(key, total, "_sum")
        for kind, entries in pieces.items():
            body = b"".join(entries)
            path = self._path(kind)
            if self._written.get(kind) != body or not path.exists():  # temporary folders are tidied up
                _replace(path, body)
                self._written[kind] = body

    def _entry(self, key: tuple[str, ...], value: float, suffix: str = "", bound: str = "") -> tuple[bytes, bytes]:
        """One sample: the length of its key, the key up to a multiple of 8 bytes, its value, and a time."""
        known = (*key, suffix, bound)
        if (head := self._keys.get(known)) is None:
            name, *values = key
            labels = (
                self._labels | dict(zip(METRICS[name].labels, values, strict=True)) | ({"le": bound} if bound else {})
            )
            said = json.dumps([name.removesuffix("_total"), name + suffix, labels, METRICS[name].text], sort_keys=True)
            encoded = said.encode()
            head = struct.pack("i", len(encoded)) + encoded + b" " * (8 - (len(encoded) + 4) % 8)
            self._keys[known] = head
        return head, struct.pack("dd", value, 1.0)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{FILES[kind]}_{self._name}.db"

    def _run(self) -> None:
        _sweep()
        with socket.socket(socket.AF_UNIX) as bell:
            bell.settimeout(PERIOD_S)
            with suppress(OSError):  # only Linux has sockets without a file: elsewhere a page is a little older
                bell.bind(_bell(self._folder, self._name))
                bell.listen()
            self._try()  # not before: whoever sees these files may ring, and is answered in turn
            while not self._closed.is_set():
                caller = self._wait(bell)
                self._try()
                if caller:
                    caller.close()

    def _wait(self, bell: socket.socket) -> socket.socket | None:
        """Until somebody who is about to read rings, who is told by a hang-up when it is written, or for a while."""
        try:
            return bell.accept()[0]
        except TimeoutError:
            return None
        except OSError:
            self._closed.wait(PERIOD_S)
            return None

    def _try(self) -> None:
        try:
            self.write()
            self._failed = False
        except Exception as error:  # the engine serves on without a page
            if not self._failed:
                logger.warning("AgentCache: its metrics cannot be written: %s", error)
            self._failed = True


_pages = itertools.count()


class Shown:
    """What `prometheus_client` asks at each scrape: the series of engines that this process, or its starter, has."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.multiprocess import MultiProcessCollector

        try:
            places = {folder(os.getpid()), folder(starter())}
            files = [path for place in places if _is_ours(place) for path in place.glob("*.db") if _lives(path)]
            for place, name in {(path.parent, path.stem.rpartition("_")[2]) for path in files}:
                _ring(place, name)
            yield from MultiProcessCollector.merge(map(str, files))
        except Exception as error:  # the page belongs to vLLM
            logger.warning("AgentCache: its metrics cannot be read: %s", error)


def show() -> None:
    """Add the series of engines that this process starts to its own page; once, however often it is called."""
    global _is_shown
    if _is_shown:
        return
    _is_shown = True
    try:
        from prometheus_client import REGISTRY

        REGISTRY.register(Shown())
    except Exception as error:
        logger.warning("AgentCache: its metrics are on no page: %s", error)


_is_shown = False


def _bell(place: Path, name: str) -> str:
    """The address at which an engine hears that its files are about to be read; it vanishes with its process."""
    return f"\0{place.name}/{name}"


def _ring(place: Path, name: str) -> None:
    """Have an engine write its files, and wait until it has; one that is busy or hangs is not waited for."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE_S)
        line.connect(_bell(place, name))
        line.recv(1)


def _replace(path: Path, body: bytes) -> None:
    """In one piece, and not by a memory map, which kills its process when the disk is full."""
    with whole(path) as file:
        file.write(struct.pack("ii", len(body) + 8, 0) + body)


def _private(place: Path) -> None:
    """Make a folder that nobody else can write to; the outer one stands where everybody can write."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(place.parent):
        raise OSError(f"{place.parent} belongs to somebody else")
    place.mkdir(mode=0o700, exist_ok=True)


def _is_ours(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and place.stat().st_uid == os.getuid()


def _lives(path: Path) -> bool:
    """Whether the engine still runs that writes this file."""
    return _runs(path.stem.rpartition("-")[2])


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _sweep() -> None:
    """Remove what killed processes have left; of this namespace only, in others the same numbers mean others."""
    mine = folder(0)
    if _is_ours(mine.parent):
        prefix = mine.name.removesuffix("0")
        for place in mine.parent.glob(f"{prefix}*"):
            if not _runs(place.name.removeprefix(prefix)):
                shutil.rmtree(place, ignore_errors=True)
