"""A sliding window of observed idle times, from which a policy learns how long a pause lasts."""

from collections import deque
from statistics import fmean


class PauseWindow:
    """The last `size` idle times in seconds, with the bookkeeping of when to look at them again.

    `add` returns True once every `every` samples, from `first` samples on: the moment to update what was learnt.
    """

    def __init__(self, size: int = 1024, first: int = 64, every: int = 64) -> None:
        self._samples: deque[float] = deque(maxlen=size)
        self._first, self._every = first, every
        self._seen = 0

    def add(self, idle_s: float) -> bool:
        self._samples.append(idle_s)
        self._seen += 1
        return self._seen >= self._first and (self._seen - self._first) % self._every == 0

    def __len__(self) -> int:
        return len(self._samples)

    def mean(self) -> float:
        return fmean(self._samples)

    def quantile(self, q: float) -> float:
        """The sample below which a share `q` of the window lies (nearest rank)."""
        ordered = sorted(self._samples)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)]
