"""Host memory of a device that computes meanwhile: copies are queued on its streams, and over when their events say so.

What goes down is queued where the step will be, so that it is read before it is overwritten. What goes up has a stream
of its own, which begins behind what has been queued so far; the step need not wait for it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from agentcache.vllm_plugin.copies.memory import HostMemory, timed
from agentcache.vllm_plugin.copies.orders import Orders, Report


class Mark(Protocol):
    """A place in a stream, as `torch.cuda.Event` is."""

    def query(self) -> bool:
        """Whether the stream has come there; raises what went wrong before."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from here to another mark, both of which have been reached."""


class Streams(Protocol):
    """The two streams of a device."""

    def aside(self) -> AbstractContextManager[Any]:
        """Within it, work is queued on the stream beside that of steps, and behind what these have queued so far."""

    def mark(self) -> Mark:
        """Where the stream that is being queued on is now."""

    def join(self) -> None:
        """What steps queue from now on is behind all that has been queued aside."""


class CudaStreams:
    """Those of the current CUDA device."""

    def __init__(self) -> None:
        self._aside = torch.cuda.Stream()

    def aside(self) -> AbstractContextManager[Any]:
        self._aside.wait_stream(torch.cuda.current_stream())
        aside: AbstractContextManager[Any] = torch.cuda.stream(self._aside)
        return aside

    def mark(self) -> Mark:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        mark: Mark = event
        return mark

    def join(self) -> None:
        torch.cuda.current_stream().wait_stream(self._aside)


@dataclass(slots=True)
class _Queued:
    number: int
    up: bool
    start: Mark
    end: Mark


class StreamMemory(HostMemory):
    """Pinned memory, and copies that are over some steps later, in any order."""

    def __init__(self, caches: Sequence[torch.Tensor], places: int, streams: Streams, pinned: bool = True) -> None:
        super().__init__(caches, places, pinned)
        self._streams = streams
        self._queued: list[_Queued] = []

    def start(self, orders: Orders) -> None:
        if orders.settle:
            self._streams.join()
        if orders.down:
            self._queue(orders, up=False)
        if orders.up:
            self._queue(orders, up=True)

    def _queue(self, orders: Orders, up: bool) -> None:
        def queue() -> None:
            with self._streams.aside() if up else nullcontext():
                start = self._streams.mark()
                (self.copy_up if up else self.copy_down)(orders, ahead=True)
                queued = _Queued(orders.number, up, start, self._streams.mark())
            with self._lock:
                self._queued.append(queued)

        if (report := timed(orders.number, up, queue)).failed:
            self._streams.join()  # its blocks are others' soon, and some of it may have been queued
            self._report(report)

    def finished(self) -> list[Report]:
        reports, waiting = super().finished(), []
        with self._lock:
            asked, self._queued = self._queued, []
        for queued in asked:
            try:
                if queued.end.query():
                    seconds = queued.start.elapsed_time(queued.end) / 1e3
                    reports.append(Report(queued.number, queued.up, seconds))
                else:
                    waiting.append(queued)
            except Exception:  # nothing of it can be counted on
                reports.append(Report(queued.number, queued.up, failed=True))
        with self._lock:
            self._queued += waiting
        return reports
