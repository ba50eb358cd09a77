"""The residency actor: the directory, named and detached in a Ray cluster, so that there is one and everybody finds it.

Nothing in it waits for anybody: every call is computed on the actor's event loop and returned. It keeps nothing that
engines would not announce again, so Ray may restart it wherever it likes.
"""

import asyncio
import gc
import logging
import time
from pathlib import Path
from resource import getpagesize
from typing import Any

import msgspec
import ray

from agentcache.api.messages import Action, Answer, Explanation, Report, Snapshot, decode, encode
from agentcache.errors import CheckFailed
from agentcache.service.directory.directory import Directory, DirectoryConfig

NAME = "agentcache.residency"
NAMESPACE = "agentcache"
TICK_S = 0.5
CHECK_S = 60.0
"""The books are recounted so often, where nobody reports in the meantime."""

BUSY, MAX_PERIOD_S = 0.6, 2.0
"""Of its time in reports, a busy service asks for fewer of them, down to one in so many seconds."""

logger = logging.getLogger(__name__)


class ResidencyActor:
    """The methods are those of `Directory`, on the actor's own clock."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self._directory = Directory(msgspec.convert(config or {}, DirectoryConfig))
        self._quiet_since = self._checked_at = time.monotonic()
        self._ticking: asyncio.Task[None] | None = None
        self._busy_s = 0.0
        # A collection of everything would halt the service for a second. What lives long here is in no cycle.
        gc.disable()

    async def exchange(self, data: bytes) -> bytes:
        """One report of an engine; returns the reply. Raises `InputError` for what is no report of our schema."""
        report = decode(data, Report)
        self._alive()
        self._quiet_since = now = time.monotonic()
        reply = encode(self._directory.report(report, now))
        self._busy_s += time.monotonic() - now
        return reply

    async def apply(self, action: Action, tenant: str) -> Answer:
        """What a client says about a job of its tenant's."""
        self._alive()
        return self._directory.apply(action, tenant, time.monotonic())

    async def snapshot(self, tenant: str | None = None, limit: int = 100) -> Snapshot:
        """What the service knows now, and what memory its process holds."""
        self._alive()
        taken = self._directory.snapshot(tenant, limit, time.monotonic())
        return msgspec.structs.replace(taken, memory_bytes=_resident_bytes())

    async def explain(self, tenant: str, job: str) -> Explanation:
        self._alive()
        return self._directory.explain(tenant, job, time.monotonic())

    async def identity(self) -> tuple[str, float]:
        """The instance's name, and when it began: a later one has taken an earlier one's place."""
        self._alive()
        return self._directory.service, self._directory.incarnation

    def _alive(self) -> None:
        if self._ticking is None:  # the event loop runs by the first call
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._pace(self._busy_s / (now - before))
            before, self._busy_s = now, 0.0
            self._directory.tick(now)
            if now - max(self._quiet_since, self._checked_at) > CHECK_S:
                self._checked_at = now
                self._check()
            gc.collect(1)
            gc.freeze()

    def _pace(self, busy: float) -> None:
        """Ask engines to report less often while reports take most of the time."""
        usual = self._directory.config.period_s
        period_s = self._directory.period_s * (2 if busy > BUSY else 0.5 if busy < BUSY / 4 else 1)
        self._directory.period_s = min(max(period_s, usual), max(MAX_PERIOD_S, usual))

    def _check(self) -> None:
        try:
            self._directory.check()
        except CheckFailed as error:
            logger.error("AgentCache: the directory's books do not balance: %s", error)


def ensure_service(config: dict[str, Any] | None = None, namespace: str = NAMESPACE, name: str = NAME) -> Any:
    """The handle of the cluster's residency service, started if there is none: whoever comes first configures it.

    Ray must be initialised. The actor restarts by itself and outlives whoever started it: end it with `stop_service`.
    Raises `ConfigError` for options that cannot be used.
    """
    Directory(msgspec.convert(config or {}, DirectoryConfig))  # a mistake is told where it was made
    options = {
        "name": name,
        "namespace": namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 0,  # a caller that retries knows better what is still true
        "max_concurrency": 1000,
        "num_cpus": 0,
    }
    return ray.remote(ResidencyActor).options(**options).remote(config)


def stop_service(namespace: str = NAMESPACE, name: str = NAME) -> bool:
    """End the service for good; False if there was none."""
    try:
        ray.kill(ray.get_actor(name, namespace), no_restart=True)
    except ValueError:
        return False
    return True


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
