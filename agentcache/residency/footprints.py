"""Whether all live jobs fit together, by sums that are kept: a bound from above, which counts shared blocks twice."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agentcache.errors import CheckFailed
from agentcache.model import Standing
from agentcache.policy.growth import GrowthWindow


@dataclass(frozen=True, slots=True)
class Footprint:
    """Blocks of a job's chains, and the standings of contexts whose next reply and next input are yet to come."""

    blocks: int
    replies: tuple[Standing, ...] = ()
    inputs: tuple[Standing, ...] = ()


class Footprints:
    """Those of all live jobs. Their sum follows what replies and inputs are expected to be without a look at jobs."""

    def __init__(self, replies: GrowthWindow, inputs: GrowthWindow) -> None:
        self._windows = replies, inputs
        self._jobs: dict[str, Footprint] = {}
        self._blocks = 0
        self._growing: tuple[Counter[Standing], Counter[Standing]] = Counter(), Counter()

    def put(self, job: str, footprint: Footprint) -> None:
        """A job has this footprint now."""
        self.drop(job)
        self._jobs[job] = footprint
        self._count(footprint, 1)

    def drop(self, job: str) -> None:
        """A job has none any more; nothing happens if it had none."""
        if gone := self._jobs.pop(job, None):
            self._count(gone, -1)

    def _count(self, footprint: Footprint, sign: int) -> None:
        self._blocks += sign * footprint.blocks
        for counts, standings in zip(self._growing, (footprint.replies, footprint.inputs), strict=True):
            for standing in standings:
                counts[standing] += sign

    @property
    def growth(self) -> int:
        """Blocks that the next turns of all may add."""
        return sum(
            count * window.expected(standing)
            for window, counts in zip(self._windows, self._growing, strict=True)
            for standing, count in counts.items()
        )

    @property
    def bound(self) -> int:
        """No fewer blocks than all of them together need."""
        return self._blocks + self.growth

    def check(self, jobs: Iterable[str]) -> None:
        """Recount against the live jobs; raise `CheckFailed` with the equation that does not hold."""
        if unknown := self._jobs.keys() - set(jobs):
            raise CheckFailed(f"footprints are kept of {sorted(unknown)}, which are not live")
        blocks = sum(footprint.blocks for footprint in self._jobs.values())
        if blocks != self._blocks:
            raise CheckFailed(f"footprints of {blocks} blocks are summed up as {self._blocks}")
        for number, name in enumerate(("replies", "inputs")):
            counted = Counter(one for footprint in self._jobs.values() for one in getattr(footprint, name))
            if counted != +self._growing[number]:
                raise CheckFailed(f"{name} are expected as {+self._growing[number]}, counted are {counted}")
