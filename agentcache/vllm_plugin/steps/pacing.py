"""The engine's pace: chunks that keep it, the times of steps, and prices that follow them."""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from agentcache.cost import CostModel, CostProfile
from agentcache.cost.fit import calibrate, is_timed
from agentcache.cost.refine import Refiner
from agentcache.model import StepTimed
from agentcache.policy.chunking import Chunking, Decodes, Step
from agentcache.vllm_plugin.blocks.holes import Run
from agentcache.vllm_plugin.compat import Request, SchedulerOutput, init_logger
from agentcache.vllm_plugin.host import Host

logger = init_logger(__name__)

IDLE_SAMPLE = 16
"""Of the steps without a prefill, one in so many is timed: they are many, short and alike."""

LEARN = 24, 8
"""Without a measured profile: steps with and without a prefill whose times make the first one."""

LOOK = 64
"""Timed steps between two looks at the refined prices."""

TELL = 0.05
"""Relative change of a price above which the policy is told."""


@dataclass(slots=True)
class _Load:
    """What a scheduled step computes, until its output comes back."""

    output: SchedulerOutput
    start_s: float
    event: StepTimed  # without its time
    starting: list[str]  # requests whose first token this step gives, and that have not ended since


class Pacer:
    """Watches the steps of one engine.

    `cost` prices steps in this engine's seconds: the measured profile refined by what is seen, or, where there is
    none, a profile made from the first steps; until then it is None, and chunks are those of vLLM.
    """

    def __init__(self, host: Host, rule: Chunking, profile: CostProfile, measured: bool, block_size: int) -> None:
        self.rule = rule
        self.cost: CostModel | None = None
        self.refiner: Refiner | None = None
        self.idle_sample = IDLE_SAMPLE
        self._host = host
        self._block_size = block_size
        self._prior = profile
        self._told = CostModel(profile, block_size)
        # Steps with a prefill and without, until there is a profile.
        self._learning: tuple[deque[StepTimed], deque[StepTimed]] = (deque(maxlen=64), deque(maxlen=64))
        self._steps = 0
        self._step: Step | None = None
        self._asked: dict[str, tuple[list[Run], int]] = {}  # prefills of this step: segments offered, tokens linked
        self._pending: deque[_Load] = deque()
        self._done_s = -math.inf
        self._first_token_s: dict[str, float] = {}
        self._said: set[str] = set()
        if measured:
            self._follow(profile)

    # A step is scheduled

    def open(self) -> None:
        """vLLM begins to schedule a step."""
        self._step = None
        self._asked.clear()

    def chunk(self, scheduler: Any, request: Request, computed: int, segments: list[Run]) -> int:
        """Prefill tokens for a request that could compute these segments in this step; 0: it waits."""
        linked = computed if request.num_computed_tokens != computed else 0  # a first step touches what it reuses
        self._asked[request.request_id] = segments, linked
        if self.rule.mode == "off" or (self.rule.mode == "adaptive" and self.cost is None):
            return sum(end - start for start, end in segments)
        if self._step is None:
            decodes = self._decodes(scheduler)
            self._step = self.rule.step(
                self.cost or self._told, decodes, scheduler.max_num_scheduled_tokens - decodes.count
            )
        return self._step.take(segments, linked)

    def _decodes(self, scheduler: Any) -> Decodes:
        decoding = [request for request in scheduler.running if not request.is_prefill_chunk]
        pace = None
        if self.rule.slack and self.rule.mode == "adaptive":
            # Nobody's slack may be spent but the slowest one's, and who has no pace yet has none to spend.
            paces = [self._pace_s(request) for request in decoding]
            known = [each for each in paces if each is not None]
            pace = max(known, default=None) if len(known) == len(paces) else None
        return Decodes(len(decoding), sum(request.num_computed_tokens for request in decoding), pace)

    def _pace_s(self, request: Request) -> float | None:
        """Seconds per output token of a request since its first one; None where there is no second one."""
        started, gaps = self._first_token_s.get(request.request_id), request.num_output_tokens - 1
        return None if started is None or gaps < 1 else (self._host.now - started) / gaps

    def scheduled(self, scheduler: Any, output: SchedulerOutput) -> None:
        """The step is made: note what it computes. To be called before vLLM counts its tokens as computed."""
        self._steps += 1
        tokens = output.num_scheduled_tokens
        wanted = self.cost is None and len(self._learning[1]) < LEARN[1]
        if not tokens or not (self._asked or wanted or self._steps % self.idle_sample == 0):
            return
        prefills: list[Run] = []
        linked = decodes = context = 0
        starting = []
        for name, count in tokens.items():
            request = scheduler.requests[name]
            if name not in self._asked:
                decodes += 1
                context += request.num_computed_tokens
                continue
            offered, before = self._asked[name]
            position, linked = offered[0][0], linked + before
            for start, end in offered:
                if count <= 0:
                    break
                linked += start - position
                position = min(end, start + count)
                count -= position - start
                prefills.append((start, position))
            if position >= request.num_tokens:
                starting.append(name)
        self._mind_overhead()
        pairs = float(sum(end * end - start * start for start, end in prefills))
        predicted = self.cost.step_seconds(prefills, decodes, context, linked) if self.cost else None
        if predicted is not None and not math.isfinite(predicted):
            predicted = None
        event = StepTimed(
            math.nan, sum(e - p for p, e in prefills), pairs, decodes, context, len(prefills), linked, predicted
        )
        self._pending.append(_Load(output, self._host.now, event, starting))

    def _mind_overhead(self) -> None:
        step, cost = self._step, self.cost
        if (
            step
            and cost
            and step.target_s < math.inf
            and cost.profile.c0 > 0.1 * step.seconds
            and "overhead" not in self._said
        ):
            self._said.add("overhead")
            logger.warning(
                "AgentCache: %.1f ms of a step are fixed, more than a tenth of its %.1f ms now: splitting "
                "prefills is dear at this TPOT target",
                1e3 * cost.profile.c0,
                1e3 * step.seconds,
            )

    # Its output is back

    def finished(self, output: SchedulerOutput) -> None:
        """The step's output has arrived and is worked in; steps come back in the order of their scheduling."""
        now, before = self._host.now, self._done_s
        self._done_s = now
        if not any(load.output is output for load in self._pending):
            return
        while (load := self._pending.popleft()).output is not output:
            pass  # it never ran
        for name in load.starting:
            self._first_token_s.setdefault(name, now)
        # Where vLLM schedules ahead, a step begins when the one before it ends.
        event = replace(load.event, seconds=now - max(load.start_s, before))
        self._host.observe(event)
        try:
            self._learn(event)
        except Exception:  # a time that no fit can do anything with: an estimate must not be a step's end
            self._start_over()

    def forget(self, request: Request) -> None:
        """The request has ended, which it may do in the very step that gives its first token."""
        name = request.request_id
        self._first_token_s.pop(name, None)
        for load in self._pending:
            if name in load.starting:
                load.starting.remove(name)

    # What is learnt

    def _learn(self, event: StepTimed) -> None:
        if self.refiner is None:
            self._start(event)
            return
        self.refiner.observe(event)
        if not self.refiner.outside <= self._said:
            self._said |= self.refiner.outside
            logger.warning(
                "AgentCache: steps take other times than the cost profile says, beyond a factor of two in %s: "
                "measure again with `agentcache profile`",
                ", ".join(sorted(self.refiner.outside)),
            )
        if self.refiner.steps % LOOK == 0:
            self._follow(self.refiner.profile)

    def _start(self, event: StepTimed) -> None:
        """Without a measured profile the first steps make one; two in three numbers are the model's own shape."""
        if is_timed(event):
            self._learning[event.tokens == 0].append(event)
        if all(len(seen) >= enough for seen, enough in zip(self._learning, LEARN, strict=True)):
            learnt = calibrate([*self._learning[0], *self._learning[1]], self._prior)
            for seen in self._learning:
                seen.clear()
            self.refiner = Refiner(learnt)
            self._follow(learnt)

    def _start_over(self) -> None:
        """What was learnt has led nowhere: drop it, and price as before."""
        if "failed" not in self._said:
            self._said.add("failed")
            logger.exception("AgentCache: the times of steps could not be learnt from; prices stay as they are")
        for seen in self._learning:
            seen.clear()
        if self.refiner:
            self.refiner = Refiner(self.refiner.measured)

    def _follow(self, profile: CostProfile) -> None:
        """Price by this profile from now on; tell the policy if its prices have moved."""
        self.refiner = self.refiner or Refiner(profile)
        self.cost = CostModel(profile, self._block_size)
        before = self._told
        if any(abs(new - old) > TELL * old for new, old in ((self.cost.a, before.a), (self.cost.b, before.b))):
            self._told = self.cost
            self._host.reprice(self.cost)
