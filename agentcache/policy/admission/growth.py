"""How much a context grows from turn to turn, by what it waits for: what admission grants the next turn."""

from agentcache.model import Standing
from agentcache.policy.pause_window import PauseWindow

_SAMPLES = 16
"""A class with fewer samples lets all classes together speak."""


class GrowthWindow:
    """Sliding windows of growth in blocks, by the standing of the context before; asked for one quantile."""

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._all = _Window(quantile)
        self.version = 0  # changes when an answer may have
        self._classes = {standing: _Window(quantile) for standing in Standing}

    def add(self, standing: Standing, blocks: int) -> None:
        # The class speaks for itself from its last early sample on, whether or not its value is another one.
        moved = self._all.add(blocks), self._classes[standing].add(blocks)
        self.version += any(moved) or self._classes[standing].samples == _SAMPLES

    def expected(self, standing: Standing) -> int:
        """The quantile of the class's growth in blocks; 0 while nothing was seen."""
        window = self._classes[standing]
        return (window if window.samples >= _SAMPLES else self._all).value


class _Window:
    __slots__ = ("_quantile", "_values", "samples", "value")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._values = PauseWindow(size=256)
        self.samples = 0
        self.value = 0

    def add(self, blocks: int) -> bool:
        """Take a sample; returns whether the quantile is another one now."""
        self._values.add(blocks)
        self.samples += 1
        before = self.value
        if self.samples <= _SAMPLES or self.samples % _SAMPLES == 0:  # sorting the window for each sample is dear
            self.value = int(self._values.quantile(self._quantile))
        return self.value != before
