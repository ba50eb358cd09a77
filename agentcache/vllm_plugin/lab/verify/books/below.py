"""Host memory of the device that keeps books: copies down at once, copies up some steps late, and some that fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from agentcache.vllm_plugin.copies.orders import Orders, Pair, Report

LATE_STEPS = (0, 0, 1, 2, 5, 40)
"""After how many steps a copy up may be over: the last is longer than a turn waits."""

FAILS_ONE_IN = 6
SPOILT = -1
"""What a block holds that a copy has failed in."""


@dataclass(slots=True)
class _Late:
    number: int
    pairs: Sequence[Pair]
    steps: int


class Below:
    """Copies between the device's `slots`, a list a block, and `places` of its own."""

    def __init__(self, slots: list[list[int]], places: int) -> None:
        self._slots = slots
        self._places = [[0] * len(slots[0]) for _ in range(places)]
        self._late: list[_Late] = []

    def down(self, orders: Orders | None) -> list[Report]:
        """Before anything of the step is written."""
        if orders is None or not orders.down:
            return []
        failed = _luck(orders.number, "down") % FAILS_ONE_IN == 0
        for block, place in orders.down:
            held = self._slots[block]
            self._places[place] = [SPOILT] * len(held) if failed else list(held)
        return [Report(orders.number, up=False, failed=failed)]

    def up(self, orders: Orders | None) -> list[Report]:
        """What is over by now, these orders among it or not."""
        for late in self._late:
            late.steps = 0 if orders and orders.settle else late.steps - 1
        reports = [self._arrive(late) for late in self._late if late.steps <= 0]
        self._late = [late for late in self._late if late.steps > 0]
        if orders and orders.up:
            steps = LATE_STEPS[_luck(orders.number, "late") % len(LATE_STEPS)]
            late = _Late(orders.number, orders.up, steps)
            if steps:
                self._late.append(late)
            else:
                reports.append(self._arrive(late))
        return reports

    def forget(self) -> None:
        """The cache has been reset, as after a change of weights: nothing that is below is worth anything."""
        for place in self._places:
            place[:] = [SPOILT] * len(place)

    def _arrive(self, late: _Late) -> Report:
        failed = _luck(late.number, "up") % FAILS_ONE_IN == 0
        for block, place in late.pairs:
            self._slots[block][:] = [SPOILT] * len(self._slots[block]) if failed else self._places[place]
        return Report(late.number, up=True, failed=failed)


def _luck(number: int, what: str) -> int:
    return crc32(f"{what} {number}".encode())
