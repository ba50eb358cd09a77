"""The whole application on one machine, in a Ray of its own that ends with it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
import psutil
import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from agentcache.errors import EngineError
from agentcache.service.app import application
from agentcache.service.config import ServiceConfig

APP = "agentcache"
OBJECT_STORE_BYTES = 128 << 20
"""Requests and answers travel in messages: the object store only needs to exist."""


@contextmanager
def running(config: ServiceConfig, host: str, port: int, log_level: int = logging.WARNING) -> Iterator[str]:
    """Start Ray, Serve and the application, and yield its URL; nothing of them is left afterwards.

    Raises `EngineError` when the application does not come up; its own words are in the log.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=log_level,
        log_to_driver=True,
    )
    try:
        quiet = LoggingConfig(log_level=logging.getLevelName(log_level), enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        try:
            serve.run(application(msgspec.structs.replace(config, listen=(host, port))), name=APP, logging_config=quiet)
        except RuntimeError as error:
            raise EngineError(f"the application did not start: {error}", "the replica's log says why") from error
        yield f"http://{host}:{port}"
    finally:
        started = psutil.Process().children(recursive=True)
        serve.shutdown()
        ray.shutdown()
        end(started)


def end(processes: Sequence[psutil.Process], grace_s: float = 5) -> None:
    """Wait until processes are gone; who outlasts the grace is killed: a Ray worker may miss its raylet's end."""
    for kill in (False, True):
        for process in processes:
            if kill and lives(process):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        deadline = time.monotonic() + grace_s
        while any(map(lives, processes)) and time.monotonic() < deadline:
            time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for_signal() -> None:
    """Return when the process is told to end: Ctrl-C or SIGTERM."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    told.wait()
