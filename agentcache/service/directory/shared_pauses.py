"""Pauses of the whole cluster: what each engine saw, kept for the others to learn from."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from statistics import fmean

from agentcache.api.messages import Pause, PauseView


class PauseExchange:
    """The last `size` pauses, each told once to every engine but the one that saw it.

    An engine that joins late hears of those that are kept: it starts with the cluster's experience.
    """

    def __init__(self, size: int = 4096) -> None:
        self._kept: deque[tuple[str, Pause]] = deque(maxlen=size)
        self._heard = 0
        self._told: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def hear(self, engine: str, pauses: Iterable[Pause]) -> None:
        for pause in pauses:
            self._kept.append((engine, pause))
            self._heard += 1

    def tell(self, engine: str, at_most: int) -> tuple[Pause, ...]:
        """Up to so many pauses that the engine has not been told of, oldest first."""
        if self._told.get(engine, 0) == self._heard:
            return ()
        oldest = self._heard - len(self._kept)
        start = max(self._told.get(engine, 0), oldest)
        told: list[Pause] = []
        for seen_by, pause in islice(self._kept, start - oldest, None):
            if len(told) == at_most:
                break
            start += 1
            if seen_by != engine:
                told.append(pause)
        self._told[engine] = start
        return tuple(told)

    def forget(self, engine: str) -> None:
        """The engine has restarted or left: it knows nothing."""
        self._told.pop(engine, None)

    def views(self) -> tuple[PauseView, ...]:
        """Kept pauses by class, the most frequent class first."""
        by_class: dict[tuple[str, str | None], list[float]] = {}
        for _, pause in self._kept:
            by_class.setdefault((pause.standing, pause.tool), []).append(pause.seconds)
        views = []
        for (standing, tool), seconds in by_class.items():
            seconds.sort()
            count = len(seconds)
            p50, p90 = seconds[count // 2], seconds[min(int(0.9 * count), count - 1)]
            views.append(
                PauseView(standing=standing, tool=tool, count=count, mean_s=fmean(seconds), p50_s=p50, p90_s=p90)
            )
        return tuple(sorted(views, key=lambda view: -view.count)[:64])
