"""Stub of the preview's scheduler (a fork of vLLM 0.10.2), its documented faults included."""

import time
from types import SimpleNamespace
from typing import Any

from tests.continuum.stubs.engine import Base, Request, Status


class StockEstimator:
    """Two seconds for a tool that is quick or new. Dies where the fork's dies."""

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))
        self.history: dict[Any, list[dict[str, Any]]] = {}

    def request_arrives(self, request: Request) -> None:
        before = self.history.setdefault(request.job_id, [])
        if before:
            request.last_func_call = before[-1]["func_call"]
        else:
            assert request.last_func_call is None
        before.append({})

    def request_finished(self, request: Request) -> None:
        self.history[request.job_id][-1]["func_call"] = request.this_func_call = None

    def set_up_pin(self, request: Request) -> float:
        return 2.0 if request.this_func_call else 0.0


class PreviewScheduler(Base):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tool_call_estimator: Any = StockEstimator()
        self.pinned_requests: list[tuple[Request, float]] = []
        self.entry: dict[str | None, float] = {}

    def add_request(self, request: Request) -> None:
        self.tool_call_estimator.request_arrives(request)
        super().add_request(request)

    def schedule(self) -> None:
        self.unpin_requests_regular()
        for request in list(self.running):
            while request in self.running and self.kv_cache_manager.allocate_slots(request) is None:
                victim, is_unpin = self.pop_running_request_based_on_last_step(request)
                if is_unpin:
                    self.kv_cache_manager.free(victim)
                else:
                    self._preempt(victim)
        while self.waiting:
            if self.kv_cache_manager.allocate_slots(self.waiting[0]) is None:
                if not self.running and self.pinned_requests:
                    self.unpin_request(*self.pinned_requests[0])
                    continue
                break
            request = self.waiting.pop(0)
            request.status = Status.RUNNING
            self.entry.setdefault(request.job_id, len(self.entry))
            self.running.append(request)

    def pop_running_request_based_on_last_step(self, request: Request) -> Any:
        if len(self.running) <= 1:
            if self.pinned_requests:
                pin = max(self.pinned_requests, key=lambda pin: pin[1])
                self.pinned_requests.remove(pin)
                return pin[0], True
            raise IndexError("pop from empty running queue")
        victims = [r for r in self.running if not r.is_last_step]
        if victims:
            victim = max(victims, key=lambda r: self.entry[r.job_id])
            self.running.remove(victim)
            return victim, False
        return None

    def pin_request(self, request: Request, length_of_pin: float) -> None:
        self.pinned_requests.append((request, time.time() + length_of_pin))

    def unpin_request(self, request: Request, end_time: float) -> None:
        self.pinned_requests.remove((request, end_time))
        self.kv_cache_manager.free(request)

    def unpin_requests_regular(self) -> None:
        waiting = {request.job_id for request in self.waiting}
        for request, end in self.pinned_requests:  # removes from the list it walks
            if request.job_id not in waiting and time.time() >= end:
                self.unpin_request(request, end)

    def _free_request(self, request: Request) -> None:
        self.tool_call_estimator.request_finished(request)
        super()._free_request(request)

    def _free_blocks(self, request: Request) -> None:
        for pinned, end in self.pinned_requests:
            if pinned.job_id == request.job_id:
                self.unpin_request(pinned, end)
        if not request.is_last_step:
            seconds = self.tool_call_estimator.set_up_pin(request)
            if seconds > 0.01:
                self.pin_request(request, seconds)
                del self.requests[request.request_id]
                return
        super()._free_blocks(request)
