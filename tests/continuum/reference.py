"""Continuum's rule once more, written from the paper alone: slow, over plain lists, sharing no line with ours."""

import math


class Reference:
    """arXiv:2511.02230v6, section 3 of the algorithm: S, T, eta, B, calc_ttl."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.samples: list[tuple[str, float]] = []
        self.waits: list[float] = []
        self.lengths: list[int] = []

    def eta(self) -> float:
        if len(set(self.lengths)) < 2:
            return 1.0
        pairs = [(k, n - k) for n in self.lengths for k in range(1, n)]
        if not pairs:
            return 1.0
        mean_x, mean_y = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
        xy = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
        xx, yy = sum((x - mean_x) ** 2 for x, _ in pairs), sum((y - mean_y) ** 2 for _, y in pairs)
        return -xy / math.sqrt(xx * yy) if xx * yy > 1e-12 else 1.0

    def ttl(self, tool: str, reload_s: float) -> float:
        waits = self.waits[-100:]
        queueing = sum(waits) / len(waits) if waits else 0.0
        everything = [s for _, s in self.samples]
        own = [s for name, s in self.samples if name == tool]
        if len(everything) <= self.k:
            return max(math.log(queueing + reload_s), 0.0) if queueing + reload_s > 0 else 0.0
        drawn = own if len(own) > self.k else everything
        worth = self.eta() * queueing + reload_s
        best, best_gain = 0.0, 0.0
        for tau in sorted(set(drawn)):
            gain = sum(s <= tau for s in drawn) / len(drawn) * worth - tau
            if gain > best_gain:
                best, best_gain = tau, gain
        return best
