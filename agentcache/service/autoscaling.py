"""Serve's autoscaling by the residency's own signal: expected rebuild seconds that wait for a first token."""

import math
from typing import Any

from agentcache.errors import ConfigError

METRIC = "rebuild_seconds_waiting"
"""What replicas record; averaged by Serve over its look-back period."""


class ByRebuildSeconds:
    """Runs as many replicas as keep what waits at each of them below `target_s`.

    In `autoscaling`: `{"min_replicas": 1, "max_replicas": 8, "policy": {"policy_function":
    "agentcache.service.autoscaling:ByRebuildSeconds", "policy_kwargs": {"target_s": 2}}}`. A replica that goes takes
    its contexts with it, so the number falls one at a time, and only once half of the target would do.
    """

    def __init__(self, target_s: float = 2.0) -> None:
        if not target_s > 0:
            raise ConfigError(f"target_s is {target_s}, expected more than 0; nothing is scaled")
        self.target_s = target_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, for Serve's autoscaling context."""
        waiting_s = sum((context.aggregated_metrics or {}).get(METRIC, {}).values())
        now = context.target_num_replicas
        wanted = max(math.ceil(waiting_s / self.target_s), 1)
        if wanted < now:
            wanted = now - 1 if waiting_s <= (now - 1) * self.target_s / 2 else now
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wanted, low), high), {}
