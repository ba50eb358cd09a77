"""The longest beginning of an order of jobs that fits: kept as jobs come, change and go, not worked out anew.

What a beginning needs grows with each job that it takes in, so the rule of the working set, the first job that does not
fit ends it, has one answer, and a change moves its end by as many jobs as it makes room or want for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sortedcontainers import SortedList

from agentcache.errors import CheckFailed
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.growth import GrowthWindow
from agentcache.policy.admission.working_set import Excuse
from agentcache.residency.footprints import Footprint, Footprints

Place = tuple[tuple[float, ...], str]
"""Order, then name."""


@dataclass(slots=True)
class _Filed:
    place: Place
    footprint: Footprint
    busy: bool
    inside: bool = False


class Prefix:
    """Jobs in their order; those `inside` fit together, those beyond come after all of them.

    `extra` are jobs from beyond that are in for another reason; what they need counts too. `moved` are those of which
    something has changed since it was last emptied.
    """

    def __init__(self, replies: GrowthWindow, inputs: GrowthWindow, footing: Footing = ONE_GROUP) -> None:
        self.extra: dict[str, Excuse] = {}
        self.moved: set[str] = set()
        self._kept = Footprints(replies, inputs, footing)
        self._jobs: dict[str, _Filed] = {}
        self._inside: SortedList[Place] = SortedList()
        self._beyond: SortedList[Place] = SortedList()
        self._busy = 0
        self.wanted = 0  # blocks that the first one beyond the end would add

    def put(self, name: str, order: tuple[float, ...], footprint: Footprint, busy: bool) -> None:
        """A job has this place and footprint now; `busy`: it has a turn. To be balanced."""
        self.drop(name)
        filed = self._jobs[name] = _Filed((order, name), footprint, busy)
        if self._beyond and self._beyond[0] < filed.place:
            self._beyond.add(filed.place)
        else:
            self._enter(filed)
        self.moved.add(name)

    def drop(self, name: str) -> None:
        """A job is there no longer; nothing happens if it was not. To be balanced."""
        if filed := self._jobs.pop(name, None):
            self._leave(filed)
            self.moved.add(name)
        if self.extra.pop(name, None):
            self._kept.drop(name)

    def _enter(self, filed: _Filed) -> None:
        filed.inside = True
        self._inside.add(filed.place)
        self._kept.put(filed.place[1], filed.footprint)
        self._busy += filed.busy

    def _leave(self, filed: _Filed) -> None:
        """Out of wherever it is."""
        if not filed.inside:
            self._beyond.remove(filed.place)
            return
        filed.inside = False
        self._inside.remove(filed.place)
        self._kept.drop(filed.place[1])
        self._busy -= filed.busy

    def balance(self, room: float) -> None:
        """Move the end to where it belongs; nobody is extra then."""
        for name in self.extra:
            self._kept.drop(name)
        self.moved |= self.extra.keys()
        self.extra = {}
        while self._inside and self._kept.blocks > room:
            self._cross(self._inside[-1][1])
        while self._beyond:
            name, before = self._beyond[0][1], self._kept.blocks
            self._cross(name)
            if self._kept.blocks > room:
                self.wanted = self._kept.blocks - before
                self._cross(name)
                break

    def _cross(self, name: str) -> None:
        filed = self._jobs[name]
        was_inside = filed.inside
        self._leave(filed)
        if was_inside:
            self._beyond.add(filed.place)
        else:
            self._enter(filed)
        self.moved.add(name)

    def take(self, extra: dict[str, Excuse]) -> None:
        """These from beyond are in, too, each for its reason."""
        for name in extra:
            self._kept.put(name, self._jobs[name].footprint)
        self.extra = extra
        self.moved |= extra.keys()

    # Looking

    def __contains__(self, name: object) -> bool:
        """Whether a job is in."""
        filed = self._jobs.get(name)  # type: ignore[call-overload]
        return filed is not None and (filed.inside or name in self.extra)

    def __len__(self) -> int:
        return len(self._inside) + len(self.extra)

    def __iter__(self) -> Iterator[str]:
        """Names of those that are in, in their order."""
        places = [*self._inside, *(self._jobs[name].place for name in self.extra)]
        return (name for _, name in sorted(places))

    @property
    def beyond(self) -> Iterator[str]:
        """Names of those behind the end, in their order."""
        return (name for _, name in self._beyond)

    @property
    def busy(self) -> bool:
        """Whether somebody inside has a turn."""
        return self._busy > 0

    @property
    def alone(self) -> str | None:
        """Who is first and does not fit by itself."""
        return self._beyond[0][1] if self._beyond and not self._inside else None

    @property
    def blocks(self) -> int:
        """What those that are in need together."""
        return self._kept.blocks

    def place(self, name: str) -> Place:
        return self._jobs[name].place

    def number(self, name: str) -> int:
        """How many stand before a job beyond the end."""
        return int(self._beyond.index(self._jobs[name].place))

    def footprint(self, name: str) -> Footprint | None:
        return self._jobs[name].footprint if name in self._jobs else None

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self._kept.check(self)
        for inside, places in ((True, self._inside), (False, self._beyond)):
            filed = sorted(one.place for one in self._jobs.values() if one.inside is inside)
            if filed != list(places):
                raise CheckFailed(f"{len(filed)} jobs are filed as inside={inside}, {len(places)} stand there")
        if self._inside and self._beyond and not self._inside[-1] < self._beyond[0]:
            raise CheckFailed(f"{self._inside[-1]} is in, and {self._beyond[0]} before it is not")
        if self._busy != (busy := sum(one.busy for one in self._jobs.values() if one.inside)):
            raise CheckFailed(f"{busy} jobs inside have turns, {self._busy} are counted")
