"""The longest beginning that fits, kept, against the plain definition worked out anew."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.growth import GrowthWindow
from agentcache.residency.fitting import Prefix
from agentcache.residency.footprints import Footprint

NAMES = st.sampled_from("abcdef")


class PrefixMachine(RuleBasedStateMachine):
    @initialize(footing=st.sampled_from([ONE_GROUP, ONE_GROUP, Footing(1, 2, 1), Footing(0.5, 0, 0.25), Footing(0, 3)]))
    def start(self, footing: Footing) -> None:
        self.footing = footing
        self.prefix = Prefix(GrowthWindow(0.5), GrowthWindow(0.5), footing)
        self.jobs: dict[str, tuple[tuple[int, str], tuple[str, ...], bool, int]] = {}
        self.room = 10

    @rule(
        name=NAMES,
        order=st.integers(0, 2),
        letters=st.text("xy", min_size=1, max_size=6),
        busy=st.booleans(),
        computed=st.integers(0, 6),
    )
    def put(self, name: str, order: int, letters: str, busy: bool, computed: int) -> None:
        chain = tuple(letters[:end] for end in range(1, len(letters) + 1))
        self.jobs[name] = ((order, name), chain, busy, computed)
        self.prefix.put(name, (order,), Footprint((chain,), left_keys=computed), busy)

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.jobs.pop(name, None)
        self.prefix.drop(name)

    @rule(room=st.integers(0, 20))
    def resize(self, room: int) -> None:
        self.room = room

    @rule(names=st.sets(NAMES))
    def take(self, names: set[str]) -> None:
        self.prefix.balance(self.room)
        self.prefix.take({name: "idle" for name in self.prefix.beyond if name in names})
        self.prefix.check()

    @invariant()
    def as_worked_out_anew(self) -> None:
        self.prefix.balance(self.room)
        seen: set[str] = set()
        inside: list[str] = []
        used = all_computed = 0
        for (_, name), chain, _, computed in sorted(self.jobs.values()):
            needed = self.footing.blocks(len(seen | set(chain)), len(inside) + 1, all_computed + computed)
            if needed > self.room:
                break
            seen |= set(chain)
            inside.append(name)
            used, all_computed = needed, all_computed + computed
        assert list(self.prefix) == inside and self.prefix.blocks == used
        assert self.prefix.busy == any(self.jobs[name][2] for name in inside)
        assert list(self.prefix.beyond) == [name for (_, name), *_ in sorted(self.jobs.values())][len(inside) :]
        self.prefix.check()


TestPrefix = PrefixMachine.TestCase


def test_who_is_beyond_the_end_comes_in_when_there_is_room() -> None:
    prefix = Prefix(GrowthWindow(0.5), GrowthWindow(0.5))
    for place, name in enumerate("abc"):
        chain = tuple((name, block) for block in range(4))
        prefix.put(name, (0, place), Footprint((chain,)), busy=name == "c")
    prefix.balance(9)
    assert list(prefix) == ["a", "b"] and list(prefix.beyond) == ["c"]
    assert (prefix.blocks, prefix.wanted, prefix.busy, prefix.alone) == (8, 4, False, None)
    prefix.take({"c": "idle"})
    assert list(prefix) == ["a", "b", "c"] and prefix.blocks == 12
    prefix.put("d", (0, -1), Footprint((tuple("dcba"),)), busy=False)
    prefix.drop("a")
    prefix.balance(9)
    assert list(prefix) == ["d", "b"] and not prefix.extra
    prefix.balance(3)
    assert list(prefix) == [] and prefix.alone == "d"
    prefix.check()
