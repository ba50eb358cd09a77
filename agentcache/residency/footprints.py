"""How many blocks all live jobs need together, kept up to date: shared blocks count once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agentcache.errors import CheckFailed
from agentcache.model import Standing
from agentcache.policy.admission.chains import Chain, CountedChains
from agentcache.policy.admission.growth import GrowthWindow


@dataclass(frozen=True, slots=True)
class Footprint:
    """A job's chains, and the standings of its contexts whose next reply and next input are yet to come."""

    chains: tuple[Chain, ...]
    replies: tuple[Standing, ...] = ()
    inputs: tuple[Standing, ...] = ()


class Footprints:
    """Those of all live jobs. Their sum follows what replies and inputs are expected to be without a look at jobs."""

    def __init__(self, replies: GrowthWindow, inputs: GrowthWindow) -> None:
        self._windows = replies, inputs
        self._jobs: dict[str, Footprint] = {}
        self._tree = CountedChains()
        self._growing: tuple[Counter[Standing], Counter[Standing]] = Counter(), Counter()

    def put(self, job: str, footprint: Footprint) -> None:
        """A job has this footprint now."""
        before = self._jobs.get(job, Footprint(()))
        self._jobs[job] = footprint
        self._move(before, footprint)

    def drop(self, job: str) -> None:
        """A job has none any more; nothing happens if it had none."""
        self._move(self._jobs.pop(job, Footprint(())), Footprint(()))

    def _move(self, before: Footprint, after: Footprint) -> None:
        for chain in after.chains:  # first: what goes on keeps its runs
            self._tree.add(chain)
        for chain in before.chains:
            self._tree.remove(chain)
        replies, inputs = self._growing
        for counts, came, went in (
            (replies, after.replies, before.replies),
            (inputs, after.inputs, before.inputs),
        ):
            for standing in came:
                counts[standing] += 1
            for standing in went:
                counts[standing] -= 1

    @property
    def growth(self) -> int:
        """Blocks that the next turns of all may add."""
        return sum(
            count * window.expected(standing)
            for window, counts in zip(self._windows, self._growing, strict=True)
            for standing, count in counts.items()
        )

    @property
    def blocks(self) -> int:
        """What all of them need together."""
        return self._tree.blocks + self.growth

    def check(self, jobs: Iterable[str]) -> None:
        """Recount against the live jobs; raise `CheckFailed` with the equation that does not hold."""
        if unknown := self._jobs.keys() - set(jobs):
            raise CheckFailed(f"footprints are kept of {sorted(unknown)}, which are not live")
        blocks = len({key for footprint in self._jobs.values() for chain in footprint.chains for key in chain})
        if blocks != self._tree.blocks:
            raise CheckFailed(f"chains of {blocks} blocks are counted as {self._tree.blocks}")
        for number, name in enumerate(("replies", "inputs")):
            counted = Counter(one for footprint in self._jobs.values() for one in getattr(footprint, name))
            if counted != +self._growing[number]:
                raise CheckFailed(f"{name} are expected as {+self._growing[number]}, counted are {counted}")
