"""A clock that does not leap: what leases and heartbeats are measured by."""


class SteadyClock:
    """Follows another clock but for its leaps: steps back, and steps forward by more than `longest_s`, are no time.

    A process that slept, or whose machine did, has not been waiting: nobody could have reached it.
    """

    def __init__(self, longest_s: float) -> None:
        self.now = 0.0
        self.leaps = 0
        self._longest_s = longest_s
        self._before: float | None = None

    def at(self, clock: float) -> float:
        """The time now, in seconds since the first call, when the other clock shows this."""
        step = clock - self._before if self._before is not None else 0.0
        self._before = clock
        if 0 <= step <= self._longest_s:
            self.now += step
        else:
            self.leaps += 1
        return self.now
