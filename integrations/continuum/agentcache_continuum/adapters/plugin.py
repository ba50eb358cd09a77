"""Adapter of the plug-in for vLLM 0.25.1 (continuum-vllm 0.1, 0.2): its TTL policy and its pin manager are ours.

    vllm serve MODEL --scheduler-cls agentcache_continuum.adapters.plugin.AsyncScheduler

`Scheduler` is its counterpart for `--no-async-scheduling`. The plug-in is imported when one of the two is asked for.
"""

import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from agentcache.cost import CostModel, CostProfile
from agentcache_continuum.adapters.reload import Reload
from agentcache_continuum.jobs import Jobs
from agentcache_continuum.rules import PaperV6, Rule
from agentcache_continuum.tools import tool_in_text

PROFILE = "AGENTCACHE_PROFILE"
"""Environment variable: a cost profile's name or path; without, contexts are priced for an H200-like device."""

SHARE = 0.5
"""Of all tokens of the pool, what pins may hold together."""


def cost_of(block_size: int) -> CostModel:
    """The cost model that the environment names."""
    name = os.environ.get(PROFILE, "h200-like")
    profile = CostProfile.load(name) if os.path.exists(name) else CostProfile.named(name)
    return CostModel(profile, block_size)


class AgentCacheTTLPolicy:
    """The plug-in's `TTLPolicy`, answered by a rule of ours; `decision` is its class `TTLDecision`."""

    def __init__(self, rule: Rule, reload: Reload, decision: Callable[..., Any]) -> None:
        self.jobs = Jobs(rule)
        self.reload = reload
        self._decision = decision

    def on_request_arrival(self, metadata: Any, now: float) -> None:
        if metadata.enabled:
            self.jobs.arrived(metadata.job_id, metadata.last_func_call, now)

    def on_request_finished(
        self,
        metadata: Any,
        output_text: str | None,
        now: float,
        num_context_tokens: int = 0,
        tier_available: bool = False,
    ) -> Any:
        if not metadata.enabled:
            return None
        tool = metadata.this_func_call or tool_in_text(output_text)
        reload_s = self.reload.seconds(num_context_tokens, tier_available)
        seconds = self.jobs.finished(metadata.job_id, tool, reload_s, now, metadata.is_last_step is True)
        if seconds <= 0:
            return None
        return self._decision(
            expires_at=now + seconds,
            tool_name=tool,
            ttl_seconds=seconds,
            source="agentcache",
            reconstruction_seconds=reload_s,
            reconstruction_source="reload" if tier_available else "prefill",
        )

    def observe_queue_delay(self, queue_delay: float) -> None:
        if queue_delay < 0:
            self.jobs.conflicts.negative_duration += 1
        else:
            self.jobs.rule.waited(queue_delay)

    def observe_program(self, num_turns: int) -> None:
        # The plug-in's own count; a turn that failed before is in it, and siblings of that turn may be missing.
        self.jobs.rule.ended(num_turns)

    def observe_reload(self, num_tokens: int, seconds: float) -> None:
        self.reload.observe(num_tokens, seconds)

    def on_program_finished(self, job_id: str, completed: bool) -> None:
        if not completed:
            self.jobs.failed(job_id)  # that one turn: siblings may still run
        else:
            self.jobs.ended(job_id)


def pin_manager(base: type, budget_tokens: float) -> Any:
    """A pin manager on the plug-in's own: what exceeds the budget expires, the program that arrived latest first."""

    class LeasedPins(base):
        def pin(self, job_id: str, request: Any, expires_at: float, program_arrival: float, tool_name: str) -> Any:
            self._tokens = {**self._held(), job_id: request.num_tokens}
            return super().pin(
                job_id=job_id,
                request=request,
                expires_at=expires_at,
                program_arrival=program_arrival,
                tool_name=tool_name,
            )

        def _held(self) -> dict[str, int]:
            return {job: tokens for job, tokens in getattr(self, "_tokens", {}).items() if job in self}

        def expire(self, now: float) -> list[Any]:
            gone = list(super().expire(now))
            held = self._held()
            while held and sum(held.values()) > budget_tokens:
                pin = self.release_for_pressure()
                if pin is None:
                    break
                held.pop(pin.job_id, None)
                gone.append(pin)
            self._tokens = held
            return gone

    return LeasedPins()


def adapted(base: type) -> type:
    """A scheduler class of the plug-in's with our policy and pins in the place of its own."""
    policy = import_module("continuum_vllm.policy")

    class Adapted(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("continuum_clock", time.monotonic)
            if kwargs.get("continuum_ttl_policy") is None:
                reload = Reload(cost_of(int(kwargs.get("block_size") or 16)))
                kwargs["continuum_ttl_policy"] = AgentCacheTTLPolicy(PaperV6(), reload, policy.TTLDecision)
            super().__init__(*args, **kwargs)
            tokens = self.cache_config.num_gpu_blocks * self.cache_config.block_size
            self._continuum_pins = pin_manager(policy.PinManager, SHARE * tokens)

    Adapted.__name__ = Adapted.__qualname__ = f"AgentCache{base.__name__}"
    return Adapted


_BASES = {"Scheduler": "ContinuumScheduler", "AsyncScheduler": "AsyncContinuumScheduler"}


def __getattr__(name: str) -> type:
    if name not in _BASES:
        raise AttributeError(name)
    return adapted(getattr(import_module("continuum_vllm.scheduler"), _BASES[name]))
