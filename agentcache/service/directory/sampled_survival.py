"""Survival estimates over a whole cluster's contexts: learnt from a sample, so that a rebuild stays short."""

from zlib import crc32

from agentcache.model import Context
from agentcache.policy.survival import Survival

SAMPLE = 2048
"""About so many paused contexts are learnt from at a time: all of them up to here, then every second, fourth, ..."""

REBUILD_S = 30.0
"""Curves of a large cluster are estimated anew this often, and no more."""


class ClusterSurvival(Survival):
    """Knows since when every context has been paused; which of their pauses it learns from, a hash of the id decides.

    The same contexts are left out of those that returned and of those that still wait, so nothing is distorted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._one_in = 1
        self._sampled: dict[Context, tuple[int, float]] = {}
        self._rebuilt_at = 0.0

    def paused(self, context: Context, now: float) -> None:
        super().paused(context, now)
        if crc32(context.id.encode()) % self._one_in == 0:
            self._sampled[context] = self._pausing[context]
            if len(self._sampled) > SAMPLE:
                self._one_in *= 2
                left = (one for one in self._sampled if crc32(one.id.encode()) % self._one_in)
                for one in list(left):
                    del self._sampled[one]

    def returned(self, context: Context, now: float) -> None:
        if self._sampled.pop(context, None) is not None:
            super().returned(context, now)
        super().ended(context)

    def lost(self, context: Context, now: float) -> None:
        if self._sampled.pop(context, None) is not None:
            super().lost(context, now)
        super().ended(context)

    def ended(self, context: Context) -> None:
        self._sampled.pop(context, None)
        super().ended(context)

    def rebuild(self, now: float) -> None:
        if self._one_in > 1 and self.ready and now - self._rebuilt_at < REBUILD_S:
            return
        self._rebuilt_at = now
        everyone, self._pausing = self._pausing, self._sampled
        super().rebuild(now)
        self._pausing = everyone
