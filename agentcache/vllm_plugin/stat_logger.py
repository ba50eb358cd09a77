"""Our metrics on vLLM's own /metrics: takes what the engine's meter has counted out of vLLM's statistics.

vLLM finds it by the entry point `vllm.stat_logger_plugins` and calls it in the API server's process, wherever the
engine runs. vLLM shows what is registered with `prometheus_client`, whose directory for several processes included.
"""

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from agentcache.vllm_plugin.compat import AggregateStatLoggerBase
from agentcache.vllm_plugin.metrics import METRICS


class AgentCacheStatLogger(AggregateStatLoggerBase):
    """Hears every step's statistics of all engines behind one API server; engines without AgentCache count nothing."""

    def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
        self._model = str(vllm_config.model_config.served_model_name)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is None:
            return
        for key, value in scheduler_stats.num_kv_fetch_reqs_by_stage.items():
            name, *labels = key.split("|")
            if name in METRICS:
                self._take(name, labels, value, str(engine_idx))

    def _take(self, name: str, labels: list[str], value: int, engine: str) -> None:
        metric, series = METRICS[name], _series(name)
        if metric.kind == "histogram":
            *labels, observed = labels
            for _ in range(value):
                series.labels(self._model, engine, *labels).observe(int(observed) / metric.scale)
        elif metric.kind == "counter":
            series.labels(self._model, engine, *labels).inc(value / metric.scale)
        else:
            series.labels(self._model, engine, *labels).set(value / metric.scale)

    def log_engine_initialized(self) -> None:
        """The series appear with their first count."""


@cache
def _series(name: str) -> Any:
    """Registered once a process, whatever engines come and go."""
    metric = METRICS[name]
    labels = ("model_name", "engine", *metric.labels)
    if metric.kind == "histogram":
        return Histogram(name, metric.text, labels, buckets=metric.buckets)
    if metric.kind == "counter":
        return Counter(name, metric.text, labels)
    return Gauge(name, metric.text, labels, multiprocess_mode="mostrecent")
