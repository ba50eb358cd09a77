"""What the engine can do without: when it fails, that is logged once and counted, and the engine serves on.

Accounts, pace, metrics and the link to a service may cost residency, never output, so a failure of theirs must not be
the engine's end. The core's must: its books say which blocks may be overwritten, and a step on wrong books may compute
wrong tokens. What the core raises therefore passes through.
"""

from types import TracebackType
from typing import Any

from agentcache.vllm_plugin.accounts.metrics import Meter
from agentcache.vllm_plugin.compat import init_logger

logger = init_logger(__name__)


class Spare:
    """`with spare("receipts"):` runs what may fail, `with spare.core:` what must not; after that has, nothing may."""

    def __init__(self, meter: Meter) -> None:
        self.broken = False
        self.faults: dict[str, int] = {}
        self._meter = meter
        self._parts: dict[str, _SparePart] = {}
        self.core = _Core(self)

    def __call__(self, part: str) -> "_SparePart":
        found = self._parts.get(part)
        if found is None:
            found = self._parts[part] = _SparePart(self, part)
        return found

    def count(self, part: str, error: Exception) -> None:
        self.faults[part] = self.faults.get(part, 0) + 1
        self._meter.set("agentcache_faults_total", self.faults[part], part)
        if self.faults[part] == 1:
            logger.error("AgentCache: %s failed, the engine goes on without it", part, exc_info=error)


class _SparePart:
    """One part; it keeps no state of a run, so that runs may nest."""

    __slots__ = ("_part", "_spare")

    def __init__(self, spare: Spare, part: str) -> None:
        self._spare, self._part = spare, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception) or self._spare.broken:
            return False
        self._spare.count(self._part, error)
        return True


class _Core:
    """The core itself."""

    __slots__ = ("_spare",)

    def __init__(self, spare: Spare) -> None:
        self._spare = spare

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._spare.broken = True
