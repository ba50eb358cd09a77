"""What both worker classes add: no step is computed without the plan that its scheduler made for it."""

from typing import Any

from agentcache.errors import EngineError
from agentcache.vllm_plugin.blocks.holes import SEGMENTS
from agentcache.vllm_plugin.overrides import Joined


class PlannedWorker(Joined):
    """Raises before a step is computed whose plan has been lost or does not fit: its rows would be at wrong positions.

    Every step of our scheduler brings a plan, an empty one too, and None where it schedules as stock vLLM does. It
    rides on `SchedulerOutput` as an attribute that vLLM does not declare: a transport that copies declared fields only
    would lose it without a word. Warm-up computes steps that no scheduler made.
    """

    _serving = False

    def compile_or_warm_up_model(self, *args: Any, **kwargs: Any) -> Any:
        from agentcache.vllm_plugin.scheduler import ResidencyScheduling

        done = super().compile_or_warm_up_model(*args, **kwargs)
        scheduler = self.vllm_config.scheduler_config.get_scheduler_cls()
        self._serving = issubclass(scheduler, ResidencyScheduling)
        return done

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if self._serving and scheduler_output.total_num_scheduled_tokens:
            check_plan(scheduler_output)
        return super().execute_model(scheduler_output, *args, **kwargs)


def check_plan(output: Any) -> None:
    """Raise `EngineError` unless the step has a plan, and its segments hold the tokens that it computes."""
    if not hasattr(output, SEGMENTS):
        raise EngineError(
            "a step has come to the worker without the plan of its scheduler, so that jumps over resident blocks are "
            "unknown here; it is not computed",
            hint="use an executor that hands a SchedulerOutput on as it is (uni, mp)",
        )
    for request, segments in (getattr(output, SEGMENTS) or {}).items():
        held, wanted = sum(end - start for start, end in segments), output.num_scheduled_tokens.get(request)
        if held != wanted:
            raise EngineError(f"segments of request {request} hold {held} tokens, {wanted} are scheduled; not computed")
