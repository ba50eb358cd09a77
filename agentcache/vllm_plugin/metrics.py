"""The names of our metrics, and the meter in the engine's process that counts for them.

vLLM sends one `SchedulerStats` a step from the engine's process to the API server's, and reads only the stages it
knows out of its counts by stage. What the meter has counted since the last step travels there as further entries
`name|label|...` with a whole number, which `stat_logger` takes out on the other side. Nobody else looks at them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentcache.model import Event, Standing, StepTimed, TurnArrived, TurnScheduled

if TYPE_CHECKING:
    from agentcache.vllm_plugin.receipts import Receipt

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
SHORT_SECONDS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 1.0)
COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its labels are closed sets known at start-up, beside vLLM's `model_name` and `engine`."""

    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    scale: int = 1  # whole numbers travel: seconds as microseconds


METRICS = {
    "agentcache_build_info": Metric("gauge", "What runs; always 1.", ("version", "vllm_version", "mode")),
    "agentcache_policy_active": Metric("gauge", "The eviction policy in use; always 1.", ("policy", "phase")),
    "agentcache_jobs_started_total": Metric("counter", "Jobs whose first turn came."),
    "agentcache_jobs_finished_total": Metric("counter", "Jobs that are known to have ended.", ("how",)),
    "agentcache_turns_total": Metric("counter", "Turns, by what came before them.", ("after",)),
    "agentcache_stock_turns_total": Metric("counter", "Turns whose blocks behind holes are not reused.", ("reason",)),
    "agentcache_pause_seconds": Metric(
        "histogram", "From one turn of a context to its next.", ("class",), SECONDS, 10**6
    ),
    "agentcache_hints_total": Metric("counter", "Claims that requests made.", ("source", "action", "outcome")),
    "agentcache_hint_conflicts_total": Metric("counter", "Claims that what happened contradicts.", ("kind",)),
    "agentcache_resident_tokens": Metric("gauge", "Slots of the pool, by whom they serve.", ("tier", "state")),
    "agentcache_reused_tokens_total": Metric("counter", "Prompt tokens not computed again.", ("tier", "place")),
    "agentcache_rebuilt_tokens_total": Metric(
        "counter", "Prompt tokens computed, by why they were missing.", ("cause",)
    ),
    "agentcache_holes_per_turn": Metric("histogram", "Missing runs before a resident block.", (), COUNTS),
    "agentcache_segments_per_step": Metric("histogram", "Runs of prefill tokens in a step.", (), COUNTS),
    "agentcache_evicted_blocks_total": Metric(
        "counter", "Cached blocks overwritten or dropped.", ("tier", "reason", "state")
    ),
    "agentcache_held_turns": Metric("gauge", "Turns that admission holds back now."),
    "agentcache_hold_seconds": Metric("histogram", "How long admission held turns.", ("end",), SECONDS, 10**6),
    "agentcache_working_set_tokens": Metric("gauge", "Footprint of the jobs that may run."),
    "agentcache_working_set_jobs": Metric("gauge", "Jobs that may run."),
    "agentcache_chunk_tokens": Metric("histogram", "Prefill tokens of steps that had some.", (), TOKENS),
    "agentcache_step_seconds": Metric("histogram", "Time of timed steps.", ("kind",), SECONDS, 10**6),
    "agentcache_prefill_seconds_total": Metric(
        "counter", "Prefill by the cost model: paid (live), or due under stock LRU (lru).", ("shadow",), (), 10**6
    ),
    "agentcache_policy_fallbacks_total": Metric("counter", "Times that the policy gave way to LRU's order."),
    "agentcache_service_up": Metric("gauge", "1 while the residency service answers."),
    "agentcache_service_sync_failures_total": Metric("counter", "Reports that the residency service did not answer."),
    "agentcache_service_staleness_seconds": Metric("gauge", "Since the service's last answer.", (), (), 10**6),
    "agentcache_service_dropped_summaries_total": Metric(
        "counter", "Summaries that no longer fitted the link's queue."
    ),
    "agentcache_decision_seconds": Metric("histogram", "Time of the core's calls.", ("call",), SHORT_SECONDS, 10**6),
}

STATES = {
    Standing.UNKNOWN: "unknown",
    Standing.TOOL: "paused",
    Standing.END_TURN: "paused",
    Standing.ENDED: "finished",
    Standing.SUPERSEDED: "superseded",
}
"""How evicted blocks stood, as a label."""


class Meter:
    """Counts until the next step takes the counts away."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}
        self._gauges: dict[str, int] = {}
        self._changed: dict[str, int] = {}
        self._totals: dict[str, int] = {}

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        if by:
            key = "|".join((name, *labels))
            self._sums[key] = self._sums.get(key, 0) + by

    def observe(self, name: str, value: float, *labels: str) -> None:
        """One observation of a histogram, in the unit of its name."""
        self.count(name, *labels, str(round(value * METRICS[name].scale)))

    def set(self, name: str, value: int, *labels: str) -> None:
        """A gauge; it travels when it has changed."""
        key = "|".join((name, *labels))
        if self._gauges.get(key) != value:
            self._gauges[key] = self._changed[key] = value

    def total(self, name: str, value: int, *labels: str) -> None:
        """A counter that is kept elsewhere: counts what it grew by."""
        key = "|".join((name, *labels))
        if grown := value - self._totals.get(key, 0):
            self._totals[key] = value
            self.count(name, *labels, by=grown)

    def drain(self) -> dict[str, int]:
        """What is new since the last call; mostly nothing."""
        if not self._sums and not self._changed:
            return {}
        new = self._sums | self._changed
        self._sums, self._changed = {}, {}
        return new

    # What it counts by itself

    def hear(self, event: Event, receipt: "Receipt | None") -> None:
        """An event, and the receipt of the turn that it is about, already up to date."""
        match event:
            case StepTimed() if event.tokens:
                self.observe("agentcache_chunk_tokens", event.tokens)
                self.observe("agentcache_segments_per_step", event.segments)
                self.observe("agentcache_step_seconds", event.seconds, "measured")
                if event.predicted_s is not None:
                    self.observe("agentcache_step_seconds", event.predicted_s, "predicted")
            case TurnArrived() if receipt:
                self.count("agentcache_turns_total", receipt.after)
                self.count("agentcache_jobs_started_total", by=receipt.opens_job)
                if receipt.pause_s is not None:
                    self.observe("agentcache_pause_seconds", receipt.pause_s, receipt.after)
            case TurnScheduled() if receipt:
                prefix = event.cached - event.after_hole
                self.count("agentcache_reused_tokens_total", "gpu", "prefix", by=prefix)
                self.count("agentcache_reused_tokens_total", "gpu", "after_hole", by=event.after_hole)
                for start, end, cause in receipt.missed:
                    self.count("agentcache_rebuilt_tokens_total", cause, by=end - start)
                self.observe("agentcache_holes_per_turn", event.holes)

    def evicted(self, standings: dict[Standing, int], reason: str) -> None:
        """Cached blocks are gone: how many of each standing."""
        for standing, blocks in standings.items():
            self.count("agentcache_evicted_blocks_total", "gpu", reason, STATES[standing], by=blocks)
