"""The engine as a host of the core: one residency, one clock, its accounts, and everybody who listens."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from agentcache.cost import CostModel
from agentcache.cost.loads import LoadPrice
from agentcache.model import (
    Block,
    BlocksEvicted,
    BlocksStored,
    Decision,
    Event,
    Key,
    Release,
    Stop,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.policy.base import FollowsPrices
from agentcache.residency import Residency
from agentcache.vllm_plugin.accounts.hints import Hints, read_hints
from agentcache.vllm_plugin.accounts.metrics import Meter
from agentcache.vllm_plugin.accounts.page import Page
from agentcache.vllm_plugin.accounts.receipts import Receipts
from agentcache.vllm_plugin.compat import Request, RequestStatus
from agentcache.vllm_plugin.levels import Level, stock_only
from agentcache.vllm_plugin.spare import Spare

Listener = Callable[[Event, float], None]


class Host:
    """Feeds the residency with what the scheduler sees. `now` stands still within one scheduling step."""

    def __init__(
        self,
        residency: Residency,
        clock: Callable[[], float] = time.monotonic,
        block_size: int = 16,
        receipts: str | None = None,
        level: Level = Level.HOLES,
    ) -> None:
        self.residency = residency
        self.level = level
        self.listeners: list[Listener] = []
        self.meter = Meter()
        self.spare = Spare(self.meter)
        self.page: Page | None = None
        self.dropping = "reset"  # why the engine invalidates blocks, while it does
        self.priorities = False  # whether requests' priorities count, as somebody asked
        self.receipts = Receipts(residency, block_size, receipts)
        self.sink: Callable[[Sequence[Block]], None] | None = None  # has what is about to be overwritten copied
        self.load_price: LoadPrice | None = None  # of host memory, where there is some
        self.loaded: dict[str, int] = {}  # tokens that came from host memory for a turn that has yet to start
        self.reprice: Callable[[CostModel], None] = self._reprice  # told what rebuilds take, in this engine's seconds
        self._clock = clock
        self._stored: list[Key] = []  # told together, before anything else is: a few blocks fill in every step
        self.now = clock()

    def tick(self) -> None:
        """A new step: the clock moves on."""
        self._tell_stored()
        self.now = self._clock()

    def close(self) -> None:
        """The engine ends."""
        with self.spare("accounts"):
            self.receipts.close()
            if self.page:
                self.page.close()

    def stored(self, keys: Sequence[Key]) -> None:
        """Blocks with these keys have been registered."""
        self._stored += keys

    def _tell_stored(self) -> None:
        if self._stored:
            keys, self._stored = tuple(self._stored), []
            self.observe(BlocksStored(keys))

    def observe(self, event: Event) -> list[Decision]:
        self._tell_stored()
        with self.spare.core:
            decisions = self.residency.observe(event, self.now)
        if not isinstance(event, _SILENT):
            with self.spare("accounts"):
                self.meter.hear(event, self.receipts.hear(event, self.now))
        for listener in self.listeners:
            listener(event, self.now)
        return decisions

    def victims(self, need: int) -> list[Block]:
        """Take out exactly so many evictable blocks, which there are, to overwrite."""
        self._tell_stored()
        begun = time.perf_counter()
        victims = self.residency.victims(need, self.now)
        assert victims is not None, f"{need} victims asked, {len(self.residency)} evictable"
        with self.spare("accounts"):
            self.meter.observe("agentcache_decision_seconds", time.perf_counter() - begun, "victims")
            self.meter.evicted(Counter(victim.standing for victim in victims), "capacity")
        if self.sink:
            self.sink(victims)
        self.observe(BlocksEvicted(tuple(victim.key for victim in victims)))
        return victims

    def dropped(self, blocks: Sequence[Block]) -> None:
        """The engine has invalidated the content of these evictable blocks."""
        self._tell_stored()
        with self.spare.core:
            self.residency.forget(blocks)
        with self.spare("accounts"):
            self.meter.evicted(Counter(block.standing for block in blocks), self.dropping)

    def withdrawn(self, keys: Sequence[Key]) -> None:
        """Blocks that are in use have lost these keys."""
        self._tell_stored()
        self.residency.withdrawn(keys, self.now)
        self.observe(BlocksEvicted(tuple(keys)))

    def buried(self, keys: Sequence[Key], reason: str) -> None:
        """Cached blocks that no hit would have reached are gone."""
        self.withdrawn(keys)
        with self.spare("accounts"):
            self.meter.count("agentcache_evicted_blocks_total", "gpu", reason, "dead", by=len(keys))

    def _reprice(self, cost: CostModel) -> None:
        if isinstance(self.residency.policy, FollowsPrices):
            self.residency.policy.reprice(cost)

    def held(self, turn: str, end: str, seconds: float) -> None:
        """A hold of the turn by admission is over."""
        with self.spare("accounts"):
            self.meter.observe("agentcache_hold_seconds", seconds, end)
            self.receipts.held(turn, end, seconds)

    def arrived(self, request: Request) -> None:
        begun = time.perf_counter()
        hints = self._hints(request)
        keys = tuple(request.block_hashes)
        with self.spare("accounts"):
            for (source, action, outcome), count in hints.outcomes.items():
                self.meter.count("agentcache_hints_total", source, action, outcome, by=count)
            if self.level is Level.HOLES and (reason := stock_only(request)):
                self.meter.count("agentcache_stock_turns_total", reason)
            self.receipts.expect(request.request_id, keys)
        urgency = request.priority if self.priorities else 0
        self.observe(TurnArrived(request.request_id, keys, hints.job, hints.context, hints.tool_ran, urgency))
        with self.spare("accounts"):
            self.meter.observe("agentcache_decision_seconds", time.perf_counter() - begun, "observe")

    def _hints(self, request: Request) -> Hints:
        with self.spare("hints"):
            return read_hints(request)
        return Hints()

    def started(self, request: Request, computed: int) -> None:
        """A turn has its blocks, by vLLM's own look-up: so many of its tokens were there."""
        gaps = ((computed, request.num_tokens),)
        loaded = min(self.loaded.pop(request.request_id, 0), computed)
        self.observe(TurnScheduled(request.request_id, request.num_tokens, computed, 0, 0, gaps, loaded))

    def preempted(self, request: Request) -> None:
        self.observe(TurnPreempted(request.request_id))

    def finished(self, request: Request) -> None:
        if request.status not in _STOPS:
            self.observe(TurnAborted(request.request_id))
            return
        hints = self._hints(request)
        stop = Stop.TOOL_USE if hints.tool_next else _STOPS[request.status]
        keys = tuple(request.block_hashes)
        decisions = self.observe(TurnFinished(request.request_id, keys, stop, hints.tool_next, hints.last))
        with self.spare("accounts"):
            ended = sum(isinstance(decision, Release) for decision in decisions)
            self.meter.count("agentcache_jobs_finished_total", "ended", by=ended)


_STOPS = {
    RequestStatus.FINISHED_STOPPED: Stop.END_TURN,
    RequestStatus.FINISHED_LENGTH_CAPPED: Stop.LENGTH,
    RequestStatus.FINISHED_REPETITION: Stop.UNKNOWN,
}

_SILENT = (BlocksStored, BlocksEvicted)
"""Events of every step that no account is kept of here."""
