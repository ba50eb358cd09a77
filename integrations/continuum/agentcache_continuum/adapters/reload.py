"""Seconds to bring a context back: by the cost model, or from a cache tier by what its loads were seen to take."""

from collections import deque

import numpy as np

from agentcache.cost import CostModel

FEWEST, MOST = 32, 1024  # loads before they speak, and remembered


class Reload:
    """`seconds(tokens, tier)`: of a context of so many tokens.

    With a tier whose loads nobody has seen yet, such as one that loads inside the forward pass, the context counts as
    free to bring back: the time to compute it would overstate what keeping it is worth.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._loads: deque[tuple[float, float]] = deque(maxlen=MOST)
        self.negative = 0

    def observe(self, tokens: int, seconds: float) -> None:
        """A load of so many tokens from the tier has taken so long."""
        if seconds < 0 or tokens < 1:
            self.negative += 1
            return
        self._loads.append((tokens, seconds))

    def seconds(self, tokens: int, tier: bool) -> float:
        computed_s = self._cost.run_seconds(0, -(-tokens // self._cost.block_size))
        if not tier:
            return computed_s
        if len(self._loads) < FEWEST:
            return 0.0
        lengths, times = np.array(self._loads).T
        slope = max(float(lengths @ times / (lengths @ lengths)), 0.0)
        return min(slope * tokens, computed_s)
