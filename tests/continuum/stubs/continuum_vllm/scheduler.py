"""Stub of the plug-in's scheduler: calls policy and pins in the documented order, over the least of an engine."""

import time
from typing import Any

from continuum_vllm.policy import ContinuumRequestMetadata, PinManager
from tests.continuum.stubs.engine import Base, Request, Status


class ContinuumScheduler(Base):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._continuum_clock = kwargs.pop("continuum_clock", time.monotonic)
        self._continuum_ttl_policy = kwargs.pop("continuum_ttl_policy")
        decoder = kwargs.pop("continuum_output_decoder", None)
        kwargs.pop("continuum_environ", None)
        super().__init__(*args, **kwargs)
        self._continuum_pins = PinManager()
        self.decode = decoder or (lambda ids: "")
        self.decisions: dict[str, Any] = {}
        self.arrival: dict[str, float] = {}
        self.turns: dict[str, int] = {}
        self.evicted: set[str] = set()
        self.waits: dict[str, float] = {}
        self.allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self.allocate_slots

    def add_request(self, request: Request) -> None:
        self.expire()
        said = ContinuumRequestMetadata.from_request(request)
        if said.enabled:
            now = self._continuum_clock()
            self.arrival.setdefault(said.job_id, now)
            self.turns[said.job_id] = self.turns.get(said.job_id, 0) + 1
            self._continuum_ttl_policy.on_request_arrival(said, now)
            if said.job_id in self.evicted:
                self.evicted.discard(said.job_id)
                self.waits[request.request_id] = now
            self._continuum_pins.claim(said.job_id, request.request_id)
        super().add_request(request)

    def schedule(self) -> None:
        self.expire()
        for request in list(self.running):
            while request in self.running and self.kv_cache_manager.allocate_slots(request) is None:
                victim = self.running.pop()
                self._preempt(victim)
        while self.waiting and self.kv_cache_manager.allocate_slots(self.waiting[0]) is not None:
            request = self.waiting.pop(0)
            request.status = Status.RUNNING
            self.running.append(request)

    def allocate_slots(self, request: Request) -> Any:
        blocks = self.allocate(request)
        while blocks is None and (pin := self._continuum_pins.release_for_pressure()) is not None:
            self.evicted.add(pin.job_id)
            self.kv_cache_manager.free(pin.request)
            blocks = self.allocate(request)
        if blocks is not None:
            if (since := self.waits.pop(request.request_id, None)) is not None:
                self._continuum_ttl_policy.observe_queue_delay(self._continuum_clock() - since)
            job = ContinuumRequestMetadata.from_request(request).job_id
            if job and (pin := self._continuum_pins.handoff(job)):
                self.kv_cache_manager.free(pin.request)
        return blocks

    def _free_request(self, request: Request) -> None:
        said = ContinuumRequestMetadata.from_request(request)
        if said.enabled:
            self._continuum_pins.unclaim(said.job_id, request.request_id)
            fine = request.status in (Status.FINISHED_STOPPED, Status.FINISHED_LENGTH_CAPPED)
            if fine:
                self.decisions[request.request_id] = self._continuum_ttl_policy.on_request_finished(
                    said,
                    self.decode(request.output_token_ids),
                    self._continuum_clock(),
                    request.num_tokens,
                    self.connector is not None,
                )
                if said.is_last_step is True:
                    self._continuum_ttl_policy.observe_program(self.turns.pop(said.job_id, 0))
            if said.is_last_step is True or not fine:
                if pin := self._continuum_pins.pop(said.job_id):
                    self.kv_cache_manager.free(pin.request)
                self._continuum_ttl_policy.on_program_finished(said.job_id, fine)
        super()._free_request(request)

    def _free_blocks(self, request: Request) -> None:
        decision = self.decisions.pop(request.request_id, None)
        now = self._continuum_clock()
        said = ContinuumRequestMetadata.from_request(request)
        if decision and decision.is_active(now):
            before = self._continuum_pins.pin(
                job_id=said.job_id,
                request=request,
                expires_at=decision.expires_at,
                program_arrival=self.arrival[said.job_id],
                tool_name=decision.tool_name,
            )
            if before:
                self.kv_cache_manager.free(before.request)
            del self.requests[request.request_id]
            return
        super()._free_blocks(request)

    def expire(self) -> None:
        for pin in self._continuum_pins.expire(self._continuum_clock()):
            self.evicted.add(pin.job_id)
            self.kv_cache_manager.free(pin.request)


class AsyncContinuumScheduler(ContinuumScheduler):
    pass
