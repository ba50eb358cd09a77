"""Adapter of the authors' preview (a fork of vLLM 0.10.2): its decisions are ours, its files stay as they are.

    vllm serve MODEL --scheduling-policy continuum --scheduler-cls agentcache_continuum.adapters.preview.Scheduler

Pins are dropped for whoever needs memory before any running turn is preempted, in the order in which programs arrived,
latest first; jobs without a name are jobs of their own; times are those of a monotonic clock.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from agentcache_continuum.adapters.plugin import SHARE, cost_of
from agentcache_continuum.adapters.reload import Reload
from agentcache_continuum.jobs import MAX_JOBS, Jobs
from agentcache_continuum.rules import PaperV6, Rule
from agentcache_continuum.tools import tool_in_text


class Estimator:
    """The fork's `ToolCallEstimator`, answered by a rule of ours; `decode` makes text of output ids."""

    def __init__(
        self, rule: Rule, reload: Reload, decode: Callable[[Any], str] | None, clock: Callable[[], float]
    ) -> None:
        self.jobs = Jobs(rule)
        self._reload = reload
        self._decode = decode
        self._clock = clock
        self._seconds: dict[str, float] = {}  # of turns that have finished and are not freed yet

    def request_arrives(self, request: Any) -> None:
        self.jobs.arrived(request.job_id, getattr(request, "last_func_call", None), self._clock())

    def request_finished(self, request: Any) -> None:
        job, last = request.job_id, bool(getattr(request, "is_last_step", False))
        if not completed(request):
            self.jobs.failed(job)
            return
        tool = getattr(request, "this_func_call", None) or tool_in_text(self._text(request))
        request.this_func_call = tool
        reload_s = self._reload.seconds(request.num_tokens, False)
        self._seconds[request.request_id] = self.jobs.finished(job, tool, reload_s, self._clock(), last)
        if last:
            self.jobs.rule.ended(self.jobs.turns(job))
            self.jobs.ended(job)

    def set_up_pin(self, request: Any) -> float:
        return self._seconds.pop(request.request_id, 0.0)

    def forget(self, request: Any) -> None:
        self._seconds.pop(request.request_id, None)

    def _text(self, request: Any) -> str | None:
        try:
            return self._decode(request.output_token_ids) if self._decode else None
        except Exception:  # a tokenizer that stumbles over an output costs this turn its lease, no more
            return None


def completed(request: Any) -> bool:
    """Whether a turn ended by itself: neither aborted nor failed."""
    return getattr(request.status, "name", str(request.status)) in ("FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED")


_Fork: Any = object
"""To a type checker, all that the fork's scheduler has; nothing when it runs."""


class PreviewScheduling(_Fork):
    """What is put in front of the fork's scheduler class."""

    rule: Callable[[], Rule] = PaperV6
    clock: Callable[[], float] = staticmethod(time.monotonic)
    tool_call_estimator: Any
    pinned_requests: list[tuple[Any, float]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tokenizer = getattr(self.tool_call_estimator, "tokenizer", None)
        decode = tokenizer.decode if tokenizer is not None else None
        config = self.cache_config
        self._most_tokens = SHARE * config.num_gpu_blocks * config.block_size
        reload = Reload(cost_of(config.block_size))
        self.tool_call_estimator = Estimator(self.rule(), reload, decode, self.clock)
        self._lost: dict[str, None] = {}  # jobs whose pin has gone before they returned
        self._waiting_since: dict[str, float] = {}
        self._allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate_unpinning

    def add_request(self, request: Any) -> None:
        if request.job_id is None:
            request.job_id = f"~{request.request_id}"  # the fork would make all of these one job
        if request.job_id in self._lost:
            del self._lost[request.job_id]
            self._waiting_since[request.request_id] = self.clock()
        super().add_request(request)

    # Memory

    def _allocate_unpinning(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """The fork's allocation; while it fails, pins go: no running turn is preempted for an idle context."""
        blocks = self._allocate(request, *args, **kwargs)
        while blocks is None and self.pinned_requests:
            self._drop(*self._newest())
            blocks = self._allocate(request, *args, **kwargs)
        if blocks is not None and (since := self._waiting_since.pop(request.request_id, None)) is not None:
            self.tool_call_estimator.jobs.rule.waited(max(self.clock() - since, 0.0))
        return blocks

    def _newest(self) -> tuple[Any, float]:
        """The pin of the program that arrived latest; of one program's, the one that would last longest."""
        place = self.tool_call_estimator.jobs.place
        pin: tuple[Any, float] = max(self.pinned_requests, key=lambda pin: (place(pin[0].job_id), pin[1]))
        return pin

    def _drop(self, request: Any, end: float) -> None:
        self._lose(request.job_id)
        self.unpin_request(request, end)

    def pop_running_request_based_on_last_step(self, request: Any) -> tuple[Any, bool]:
        """Whom to take memory from, and whether that is a pin. Pins first; else the newest program that runs."""
        if self.pinned_requests:
            pin = self._newest()
            self.pinned_requests.remove(pin)
            self._lose(pin[0].job_id)
            return pin[0], True
        place = self.tool_call_estimator.jobs.place
        victim = max(self.running, key=lambda r: (not getattr(r, "is_last_step", False), place(r.job_id)))
        self.running.remove(victim)
        return victim, False

    # Pins

    def pin_request(self, request: Any, length_of_pin: float) -> None:
        super().pin_request(request, length_of_pin)
        self.pinned_requests[-1] = (request, self.clock() + length_of_pin)  # the fork's end is by the wall clock

    def unpin_requests_regular(self) -> None:
        now = self.clock()
        for request, end in list(self.pinned_requests):
            if now > end and not any(_continues(turn, request) for turn in self.waiting):
                self._drop(request, end)

    def _free_blocks(self, request: Any) -> None:
        others = []
        for pin in list(self.pinned_requests):
            if _continues(request, pin[0]):
                self.unpin_request(*pin)  # this turn's own blocks stand for it
            else:
                others.append(pin)
        if not completed(request):
            self.tool_call_estimator.forget(request)
        self.pinned_requests = []  # the fork would drop the pins of all branches of the job here
        super()._free_blocks(request)
        new, self.pinned_requests = self.pinned_requests, [*others, *self.pinned_requests]
        while sum(pinned.num_tokens for pinned, _ in self.pinned_requests) > self._most_tokens:
            self._drop(*self._newest())
        self._waiting_since.pop(request.request_id, None)
        if completed(request) and not new and not getattr(request, "is_last_step", False):
            self._lose(request.job_id)

    def _lose(self, job: str) -> None:
        """The job's context is not kept any more; remembers the latest ones."""
        self._lost[job] = None
        if len(self._lost) > MAX_JOBS:
            del self._lost[next(iter(self._lost))]


def _continues(turn: Any, before: Any) -> bool:
    """Whether a turn's prompt begins with another one's of its job."""
    if turn.job_id != before.job_id:
        return False
    prompt = before.prompt_token_ids
    return list(turn.prompt_token_ids[: len(prompt)]) == list(prompt)


def adapted(base: type) -> type:
    """A scheduler class of the fork's with our decisions."""
    return type("AgentCachePreviewScheduler", (PreviewScheduling, base), {})


def __getattr__(name: str) -> type:
    if name != "Scheduler":
        raise AttributeError(name)
    return adapted(import_module("vllm.v1.core.sched.scheduler").Scheduler)
