"""How many blocks all live jobs need together, kept up to date: shared keys count once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agentcache.errors import CheckFailed
from agentcache.model import Standing
from agentcache.policy.admission.chains import Chain, CountedChains
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.growth import GrowthWindow


@dataclass(frozen=True, slots=True)
class Footprint:
    """A job's chains, one of each context, and the standings of those whose next reply and next input are yet to come.

    `left_keys`: of how many keys its contexts' last or present turns leave something.
    """

    chains: tuple[Chain, ...]
    replies: tuple[Standing, ...] = ()
    inputs: tuple[Standing, ...] = ()
    left_keys: int = 0


_NOTHING = Footprint(())


class Footprints:
    """Those of all live jobs. Their sum follows what replies and inputs are expected to be without a look at jobs."""

    def __init__(self, replies: GrowthWindow, inputs: GrowthWindow, footing: Footing = ONE_GROUP) -> None:
        self._windows = replies, inputs
        self._footing = footing
        self._jobs: dict[str, Footprint] = {}
        self._tree = CountedChains()
        self._growing: tuple[Counter[Standing], Counter[Standing]] = Counter(), Counter()
        self._contexts = 0
        self._left_keys = 0

    def put(self, job: str, footprint: Footprint) -> None:
        """A job has this footprint now."""
        before = self._jobs.get(job, _NOTHING)
        self._jobs[job] = footprint
        self._move(before, footprint)

    def drop(self, job: str) -> None:
        """A job has none any more; nothing happens if it had none."""
        self._move(self._jobs.pop(job, _NOTHING), _NOTHING)

    def _move(self, before: Footprint, after: Footprint) -> None:
        for chain in after.chains:  # first: what goes on keeps its runs
            self._tree.add(chain)
        for chain in before.chains:
            self._tree.remove(chain)
        self._contexts += len(after.chains) - len(before.chains)
        self._left_keys += after.left_keys - before.left_keys
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
        """Keys that the next turns of all may add."""
        return sum(
            count * window.expected(standing)
            for window, counts in zip(self._windows, self._growing, strict=True)
            for standing, count in counts.items()
        )

    @property
    def blocks(self) -> int:
        """What all of them need together."""
        return self._footing.blocks(self._tree.blocks + self.growth, self._contexts, self._left_keys)

    def check(self, jobs: Iterable[str]) -> None:
        """Recount against the live jobs; raise `CheckFailed` with the equation that does not hold."""
        if unknown := self._jobs.keys() - set(jobs):
            raise CheckFailed(f"footprints are kept of {sorted(unknown)}, which are not live")
        keys = len({key for footprint in self._jobs.values() for chain in footprint.chains for key in chain})
        if keys != self._tree.blocks:
            raise CheckFailed(f"chains of {keys} keys are counted as {self._tree.blocks}")
        if self._contexts != (contexts := sum(len(footprint.chains) for footprint in self._jobs.values())):
            raise CheckFailed(f"{contexts} contexts are counted as {self._contexts}")
        if self._left_keys != (left := sum(footprint.left_keys for footprint in self._jobs.values())):
            raise CheckFailed(f"keys of which something is left, {left}, are counted as {self._left_keys}")
        for number, name in enumerate(("replies", "inputs")):
            counted = Counter(one for footprint in self._jobs.values() for one in getattr(footprint, name))
            if counted != +self._growing[number]:
                raise CheckFailed(f"{name} are expected as {+self._growing[number]}, counted are {counted}")
