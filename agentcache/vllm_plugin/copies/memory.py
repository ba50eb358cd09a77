"""Host memory, and copies that are over when they return: those of an engine whose blocks are in it too."""

import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

import torch

from agentcache.vllm_plugin.compat import init_logger
from agentcache.vllm_plugin.copies.orders import Orders, Report

logger = init_logger(__name__)


class Memory(Protocol):
    """What a worker has blocks copied by. Caches are a tensor a layer, [blocks, ...]."""

    def start(self, orders: Orders) -> None:
        """Before the step is computed that they came with. What fails is reported, and never raised."""

    def finished(self) -> list[Report]:
        """Of what is over since this was last asked."""


class HostMemory:
    """`places` blocks, taken now: zeros are written, so that what is not there is missed at once."""

    def __init__(self, caches: Sequence[torch.Tensor], places: int, pinned: bool = False) -> None:
        self.caches = caches
        self.held = [
            torch.empty((places, *cache.shape[1:]), dtype=cache.dtype, pin_memory=pinned).zero_() for cache in caches
        ]
        self._reports: list[Report] = []
        self._lock = Lock()  # where vLLM waits for outputs in a thread of its own, that asks while this one copies

    def start(self, orders: Orders) -> None:
        if orders.down:
            self._report(timed(orders.number, False, lambda: self.copy_down(orders)))
        if orders.up:
            self._report(timed(orders.number, True, lambda: self.copy_up(orders)))

    def _report(self, report: Report) -> None:
        with self._lock:
            self._reports.append(report)

    def copy_down(self, orders: Orders, ahead: bool = False) -> None:
        """`ahead`: the copies are queued where what computes is."""
        # A copy each: indexed ones are half as fast.
        for cache, held in zip(self.caches, self.held, strict=True):
            for block, place in orders.down:
                held[place].copy_(cache[block], non_blocking=ahead)

    def copy_up(self, orders: Orders, ahead: bool = False) -> None:
        for cache, held in zip(self.caches, self.held, strict=True):
            for block, place in orders.up:
                cache[block].copy_(held[place], non_blocking=ahead)

    def finished(self) -> list[Report]:
        with self._lock:
            reports, self._reports = self._reports, []
        return reports


def timed(number: int, up: bool, copy: Callable[[], object]) -> Report:
    """Copy; whatever goes wrong is no more than a copy that has not come about."""
    begun = time.perf_counter()
    try:
        copy()
    except Exception:
        logger.exception("AgentCache: copies %s host memory have failed", "from" if up else "to")
        return Report(number, up, failed=True)
    return Report(number, up, time.perf_counter() - begun)
