"""When something of a name is due: the latest that was said counts, and as many entries are kept as there are names."""

import heapq
import math
from collections.abc import Iterator


class Deadlines:
    """Times by name in seconds; an infinite one is none."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}

    def add(self, due: float, name: str) -> None:
        """From now on this is the name's time."""
        if due == math.inf:
            self._due.pop(name, None)
        elif self._due.get(name) != due:
            self._due[name] = due
            heapq.heappush(self._heap, (due, name))
        if len(self._heap) > 4 * len(self._due) + 64:
            self._heap = [(at, name) for name, at in self._due.items()]
            heapq.heapify(self._heap)

    def passed(self, now: float) -> Iterator[str]:
        """Take out those whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            due, name = heapq.heappop(self._heap)
            if self._due.get(name) == due:
                del self._due[name]
                yield name

    @property
    def next(self) -> float:
        """When something may be due; infinity if nothing is."""
        return self._heap[0][0] if self._heap else math.inf

    def __len__(self) -> int:
        return len(self._due)
