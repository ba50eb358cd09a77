"""The scheduler classes that switch AgentCache on: stock vLLM scheduling over a residency that keeps contexts.

Named to vLLM by `--scheduler-cls`. There are two because a subclass of `Scheduler` alone would silently turn
vLLM's asynchronous scheduling off.
"""

from typing import Any

from agentcache.errors import Unsupported
from agentcache.vllm_plugin.attach import attach
from agentcache.vllm_plugin.compat import AsyncScheduler, Request, Scheduler, SchedulerOutput, init_logger
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.holes import SEGMENTS
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.refusals import refuse

logger = init_logger(__name__)


class ResidencyScheduling:
    """What both schedulers add: events for the residency, and jumps over resident blocks.

    `agentcache` is the host, or None where the configuration is unsupported and stock caching was asked for instead.
    """

    agentcache: Host | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = load_options(self.vllm_config.additional_config)
        try:
            refuse(self)
        except Unsupported as reason:
            if options.on_unsupported == "refuse":
                raise
            logger.warning("AgentCache is off, stock prefix caching runs: %s", reason.message)
            return
        self.agentcache = attach(self, options)

    def add_request(self, request: Request) -> None:
        if self.agentcache and request.request_id not in self.requests:
            self.agentcache.tick()
            self.agentcache.arrived(request)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        if self.agentcache:
            self.agentcache.tick()
            for decision in self.agentcache.residency.admit(self.agentcache.now):
                logger.debug("AgentCache: %s", decision)
        return super().schedule(*args, **kwargs)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """vLLM's own question whether a queued request can run: one that says no keeps its place and is asked again."""
        if self.agentcache and not self.agentcache.residency.may_run(request.request_id):
            return False
        ready: bool = super()._handle_blocked_waiting_request(request)
        return ready

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """vLLM's own last word on the size of a chunk: not more than the holes of this step hold."""
        tokens: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if not self.agentcache or tokens <= 0:
            return tokens
        segments, _ = self.kv_cache_manager.plan(request, num_computed_tokens, tokens)
        return sum(end - start for start, end in segments)

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        if self.agentcache:
            segmented = {}
            for request_id, tokens in scheduler_output.num_scheduled_tokens.items():
                request = self.requests[request_id]
                segments, jumped = self.kv_cache_manager.advance(request, tokens)
                request.num_computed_tokens += jumped
                if len(segments) > 1:
                    segmented[request_id] = segments
            setattr(scheduler_output, SEGMENTS, segmented)
        super()._update_after_schedule(scheduler_output)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        if self.agentcache:
            self.agentcache.tick()
        return super().update_from_output(*args, **kwargs)

    # The residency hears of an end before the blocks come back, so that they carry their standing.

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if self.agentcache:
            self.agentcache.preempted(request)
        super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.agentcache:
            self.agentcache.finished(request)
        return super()._free_request(request, *args, **kwargs)


class AgentCacheScheduler(ResidencyScheduling, Scheduler):
    """`--scheduler-cls agentcache.vllm_plugin.scheduler.AgentCacheScheduler`"""


class AgentCacheAsyncScheduler(ResidencyScheduling, AsyncScheduler):
    """`--scheduler-cls agentcache.vllm_plugin.scheduler.AgentCacheAsyncScheduler`, where vLLM schedules ahead."""
