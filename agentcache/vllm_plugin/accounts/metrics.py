"""The names of our metrics, and the meter in the engine's process that keeps them; `page` puts them on /metrics."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentcache.model import Event, Standing, StepTimed, TurnArrived, TurnScheduled

if TYPE_CHECKING:
    from agentcache.vllm_plugin.accounts.receipts import Receipt

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


METRICS = {
    "agentcache_build_info": Metric("gauge", "What runs; always 1.", ("version", "vllm_version", "level", "mode")),
    "agentcache_policy_active": Metric("gauge", "The eviction policy in use; always 1.", ("policy", "phase")),
    "agentcache_jobs_started_total": Metric("counter", "Jobs whose first turn came."),
    "agentcache_jobs_finished_total": Metric("counter", "Jobs that are known to have ended.", ("how",)),
    "agentcache_turns_total": Metric("counter", "Turns, by what came before them.", ("after",)),
    "agentcache_stock_turns_total": Metric("counter", "Turns whose blocks behind holes are not reused.", ("reason",)),
    "agentcache_pause_seconds": Metric("histogram", "From one turn of a context to its next.", ("class",), SECONDS),
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
    "agentcache_hold_seconds": Metric("histogram", "How long admission held turns.", ("end",), SECONDS),
    "agentcache_working_set_tokens": Metric("gauge", "Footprint of the jobs that may run."),
    "agentcache_working_set_jobs": Metric("gauge", "Jobs that may run."),
    "agentcache_chunk_tokens": Metric("histogram", "Prefill tokens of steps that had some.", (), TOKENS),
    "agentcache_step_seconds": Metric("histogram", "Time of timed steps.", ("kind",), SECONDS),
    "agentcache_prefill_seconds_total": Metric(
        "counter", "Prefill by the cost model: paid (live), or due under stock LRU (lru).", ("shadow",)
    ),
    "agentcache_policy_fallbacks_total": Metric("counter", "Times that the policy gave way to LRU's order."),
    "agentcache_tier_blocks_total": Metric("counter", "Blocks copied to and from host memory.", ("way", "outcome")),
    "agentcache_tier_copy_seconds_total": Metric("counter", "Time of copies to and from host memory.", ("way",)),
    "agentcache_tier_loaded_tokens_total": Metric("counter", "Reused prompt tokens that came from host memory."),
    "agentcache_service_up": Metric("gauge", "1 while the residency service answers."),
    "agentcache_service_sync_failures_total": Metric("counter", "Reports that the residency service did not answer."),
    "agentcache_service_staleness_seconds": Metric("gauge", "Since the service's last answer."),
    "agentcache_service_dropped_summaries_total": Metric(
        "counter", "Summaries that no longer fitted the link's queue."
    ),
    "agentcache_receipts_dropped_total": Metric("counter", "Receipts that could not be written."),
    "agentcache_faults_total": Metric("counter", "Failures of parts that the engine can do without.", ("part",)),
    "agentcache_decision_seconds": Metric("histogram", "Time of the core's calls.", ("call",), SHORT_SECONDS),
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
    """Keeps every series as it stands: its size is that of the closed sets of labels, whether anybody looks or not."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}  # name and labels of a counter or gauge
        self.histograms: dict[tuple[str, ...], list[float]] = {}  # observations by bucket, then their sum

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        if by:
            key = (name, *labels)
            self.values[key] = self.values.get(key, 0) + by

    def observe(self, name: str, value: float, *labels: str) -> None:
        """One observation of a histogram, in the unit of its name."""
        bounds = METRICS[name].buckets
        row = self.histograms.get((name, *labels))
        if row is None:
            row = self.histograms[(name, *labels)] = [0.0] * (len(bounds) + 2)
        row[bisect_left(bounds, value)] += 1
        row[-1] += value

    def set(self, name: str, value: float, *labels: str) -> None:
        """A gauge, or a counter that is kept elsewhere, as it stands now."""
        self.values[(name, *labels)] = value

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
                self.count("agentcache_tier_loaded_tokens_total", by=event.loaded)
                for start, end, cause in receipt.missed:
                    self.count("agentcache_rebuilt_tokens_total", cause, by=end - start)
                self.observe("agentcache_holes_per_turn", event.holes)

    def evicted(self, standings: dict[Standing, int], reason: str) -> None:
        """Cached blocks are gone: how many of each standing."""
        for standing, blocks in standings.items():
            self.count("agentcache_evicted_blocks_total", "gpu", reason, STATES[standing], by=blocks)
