"""The scheduler classes that switch AgentCache on: stock vLLM scheduling over a residency that keeps contexts.

Named to vLLM by `--scheduler-cls`. There are two because a subclass of `Scheduler` alone would silently turn
vLLM's asynchronous scheduling off. Which of them runs is known only when vLLM has made up its mind, out of platform,
executor, parallelism and flags: so the engine's own configuration picks it, not who names it.
"""

from typing import Any

from agentcache.vllm_plugin.blocks.holes import SEGMENTS
from agentcache.vllm_plugin.blocks.kv_manager import no_shortcut, shortcut
from agentcache.vllm_plugin.blocks.withdrawn import withdraw
from agentcache.vllm_plugin.compat import AsyncScheduler, Request, Scheduler, SchedulerOutput, VllmConfig, init_logger
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS
from agentcache.vllm_plugin.copies.porter import Porter
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.levels import Level, Setup, choose, verdict
from agentcache.vllm_plugin.link.link import Link
from agentcache.vllm_plugin.overrides import Joined, own
from agentcache.vllm_plugin.steps.attach import attach
from agentcache.vllm_plugin.steps.pacing import Pacer
from agentcache.vllm_plugin.steps.waiting import RankedQueue

logger = init_logger(__name__)


class ResidencyScheduling(Joined):
    """What both schedulers add: events for the residency, jumps over resident blocks, and chunks that keep a pace.

    `agentcache` is the host, or None where the engine is left to vLLM, as was asked for; `holes` says whether the host
    is at that level: below it look-up, allocation and rows are vLLM's own.
    """

    agentcache: Host | None = None
    holes = False
    shortcuts: tuple[str, ...] = ()
    pacer: Pacer
    link: Link | None = None
    porter: Porter | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = load_options(self.vllm_config.additional_config)
        found = verdict(Setup.of(self))
        level = choose(found, options)
        if level is None:
            logger.warning("AgentCache is off, stock prefix caching runs: %s", found.why)
            return
        self.holes = level is Level.HOLES
        self.agentcache = attach(self, options, level, found.why if level is found.level else "it was asked for")

    def add_request(self, request: Request) -> None:
        if self.agentcache and request.request_id not in self.requests:
            self.agentcache.tick()
            self.agentcache.arrived(request)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        if self.agentcache:
            self.agentcache.tick()
            if self.link:
                self.link.poll()
            for decision in self.agentcache.residency.admit(self.agentcache.now):
                logger.debug("AgentCache: %s", decision)
            if isinstance(self.waiting, RankedQueue) and self.waiting.reorder():
                self.deferred_waiting.update(self.waiting.held)  # as if this step had skipped them
            with self.agentcache.spare("pace"):
                self.pacer.open()
            if self.holes:
                self.kv_cache_manager.settle()
            if self.waiting or self._inflight_prefills:
                no_shortcut(self)
            else:  # decodes alone, whose chunks are no matter of ours
                shortcut(self, Scheduler, "_reserve_prefill_lookahead")
        output: SchedulerOutput = super().schedule(*args, **kwargs)
        if self.agentcache:
            if not self.holes:
                self._tell_started(output)
            if len(self.waiting) and not self.running and not self.kv_holding_waiting:
                self.agentcache.residency.stalled()
        return output

    @own
    def _tell_started(self, output: SchedulerOutput) -> None:
        """Which turns have their blocks; what was there is whatever vLLM found, in a tier below the pool too."""
        assert self.agentcache
        cached = output.scheduled_cached_reqs
        at = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        started = {name: at[name] for name in cached.resumed_req_ids if name in at}
        started |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        for name, computed in started.items():
            self.agentcache.started(self.requests[name], computed)

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """vLLM's own last word on the size of a chunk: what this step's holes hold, and what decodes can wait for."""
        if self.agentcache and num_new_tokens == 1:  # a decode, which nothing changes: most calls are for one
            return 1
        # A decode with its drafts, or a last token that vLLM has padded with some.
        if self.num_spec_tokens and num_computed_tokens >= request.num_tokens - 1:
            verified: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
            return verified
        tokens: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if not self.agentcache or tokens <= 1:
            return tokens
        if self.holes:
            segments, _ = self.kv_cache_manager.plan(request, num_computed_tokens, tokens)
        else:
            segments = [(num_computed_tokens, num_computed_tokens + tokens)]
        with self.agentcache.spare("pace"):
            return self.pacer.chunk(self, request, num_computed_tokens, segments)
        return sum(end - start for start, end in segments)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """vLLM's own first word on who is at the head of the queue; who is not ready is passed over in this step."""
        ready: bool = super()._handle_blocked_waiting_request(request)
        return ready and not (self.porter and self.porter.holds(request, len(self.running)))

    def has_requests(self) -> bool:
        """Steps go on while copies are under way."""
        return bool(super().has_requests()) or bool(self.porter and self.porter.is_busy)

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        setattr(scheduler_output, SEGMENTS, None)
        if self.porter:
            setattr(scheduler_output, ORDERS, self.porter.take(scheduler_output.num_scheduled_tokens.keys()))
        if self.agentcache:
            with self.agentcache.spare("pace"):
                self.pacer.scheduled(self, scheduler_output)
        if self.holes:
            segmented = {}
            tokens = scheduler_output.num_scheduled_tokens
            for request_id in [name for name in self.kv_cache_manager.runs if name in tokens]:
                request = self.requests[request_id]
                segments, jumped = self.kv_cache_manager.advance(request, tokens[request_id])
                request.num_computed_tokens += jumped
                if len(segments) > 1:
                    segmented[request_id] = segments
            setattr(scheduler_output, SEGMENTS, segmented)
        super()._update_after_schedule(scheduler_output)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.agentcache:
            self.agentcache.tick()
        if self.porter:
            self.porter.hear(getattr(model_runner_output, REPORTS, None))
        outputs = super().update_from_output(scheduler_output, model_runner_output, *args, **kwargs)
        if self.agentcache:
            self.agentcache.tick()
            with self.agentcache.spare("pace"):
                self.pacer.finished(scheduler_output)
        return outputs

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        if self.porter:
            self.porter.cancel()  # what is being filled is in use, as vLLM sees it
        done: bool = super().reset_prefix_cache(*args, **kwargs)
        if self.porter and done:
            self.porter.reset()
        if self.link:
            self.link.reset()
        return done

    def shutdown(self) -> None:
        if self.agentcache:
            with self.agentcache.spare("link"):
                if self.link:
                    self.link.close()
            self.agentcache.close()
        super().shutdown()

    # The residency hears of an end before the blocks come back, so that they carry their standing.

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if not self.holes:  # where vLLM's own manager gives the blocks back, it has the same fault
            withdraw(self.kv_cache_manager, request)
        if self.agentcache:
            self.agentcache.preempted(request)
        if self.porter:
            self.porter.forget(request)
        super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if self.agentcache:
            self.agentcache.finished(request)
            if self.porter:
                self.porter.forget(request)
            with self.agentcache.spare("pace"):
                self.pacer.forget(request)
        return super()._free_request(request, *args, **kwargs)


class AgentCacheScheduler(ResidencyScheduling, Scheduler):
    """`--scheduler-cls agentcache.vllm_plugin.scheduler.AgentCacheScheduler`: ahead of the device where vLLM is."""

    def __new__(cls, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> "AgentCacheScheduler":
        ahead = cls is AgentCacheScheduler and vllm_config.scheduler_config.async_scheduling
        made: AgentCacheScheduler = super().__new__(AgentCacheAsyncScheduler if ahead else cls)
        return made


class AgentCacheAsyncScheduler(AgentCacheScheduler, AsyncScheduler):
    """What runs where vLLM schedules ahead; named itself, it also serves an engine that does not."""
