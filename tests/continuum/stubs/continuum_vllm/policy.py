"""Stub of the plug-in's policy module: the names, fields and answers that its documentation gives."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ContinuumRequestMetadata:
    job_id: str | None = None
    last_func_call: str | None = None
    is_last_step: bool | None = None
    this_func_call: str | None = None

    @property
    def enabled(self) -> bool:
        return self.job_id is not None

    @classmethod
    def from_request(cls, request: Any) -> "ContinuumRequestMetadata":
        given = request.extra_args or {}
        words = {0: False, 1: True, "true": True, "yes": True, "false": False, "no": False}
        last = given.get("is_last_step")
        names = {name: given.get(name) or None for name in ("job_id", "last_func_call", "this_func_call")}
        return cls(is_last_step=words.get(last) if isinstance(last, int | str) else None, **names)


@dataclass(frozen=True)
class TTLDecision:
    expires_at: float
    tool_name: str
    ttl_seconds: float
    source: str
    finish_probability: float | None = None
    expected_utility: float | None = None
    reconstruction_seconds: float = 0.0
    reconstruction_source: str = "prefill"

    def is_active(self, now: float) -> bool:
        return self.expires_at > now


@dataclass
class PinnedRequest:
    job_id: str
    request: Any
    expires_at: float
    program_arrival: float
    tool_name: str
    claimed_by: str | None = None


class PinManager:
    def __init__(self) -> None:
        self._pins: dict[str, PinnedRequest] = {}

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._pins

    def __len__(self) -> int:
        return len(self._pins)

    def pin(
        self, job_id: str, request: Any, expires_at: float, program_arrival: float, tool_name: str
    ) -> PinnedRequest | None:
        before = self._pins.get(job_id)
        self._pins[job_id] = PinnedRequest(job_id, request, expires_at, program_arrival, tool_name)
        return before

    def get(self, job_id: str) -> PinnedRequest | None:
        return self._pins.get(job_id)

    def pop(self, job_id: str) -> PinnedRequest | None:
        return self._pins.pop(job_id, None)

    def handoff(self, job_id: str) -> PinnedRequest | None:
        return self.pop(job_id)

    def claim(self, job_id: str, request_id: str) -> None:
        if job_id in self._pins:
            self._pins[job_id].claimed_by = request_id

    def unclaim(self, job_id: str, request_id: str) -> PinnedRequest | None:
        pin = self._pins.get(job_id)
        if pin and pin.claimed_by == request_id:
            pin.claimed_by = None
            return pin
        return None

    def expire(self, now: float) -> list[PinnedRequest]:
        over = [pin for pin in self._pins.values() if pin.claimed_by is None and pin.expires_at <= now]
        return [self._pins.pop(pin.job_id) for pin in over]

    def release_for_pressure(self) -> PinnedRequest | None:
        if not self._pins:
            return None
        last = max(self._pins.values(), key=lambda pin: (pin.program_arrival, pin.expires_at, pin.job_id))
        return self._pins.pop(last.job_id)

    def pop_all(self) -> list[PinnedRequest]:
        gone, self._pins = list(self._pins.values()), {}
        return gone
