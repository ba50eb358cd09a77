"""Where contexts are: what was seen, what was told, what was lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentcache.service.routing.homes import COPIES, FRESH_S, LOST, Homes

JOBS = st.sampled_from("abcdef")
REPLICAS = st.sampled_from(("r1", "r2"))


def test_fresh_turns_are_newer_than_news() -> None:
    homes = Homes()
    homes.served("j", "r1", 100, now=10.0)
    homes.told("j", {"r2": 50}, now=10.0 + FRESH_S / 2)
    assert homes.of("j").tokens == {"r1": 100}
    homes.told("j", {"r2": 50}, now=10.0 + 2 * FRESH_S)
    assert homes.of("j").tokens == {"r2": 50} and homes.of("j").home == "r1"


def test_what_holds_most_of_an_unknown_job_is_its_home() -> None:
    homes = Homes()
    homes.told("j", {"r1": 10, "r2": 50}, now=0.0)
    homes.told("nowhere", {}, now=0.0)
    homes.told("evicted", {"r1": 0, "r2": 0}, now=0.0)
    assert homes.of("j").home == "r2" and homes.of("j").tokens == {"r1": 10, "r2": 50}
    assert len(homes) == 1


def test_a_lost_replica_holds_nothing() -> None:
    homes = Homes()
    homes.served("j", "r1", 100, now=0.0)
    homes.served("j", "r2", 200, now=1.0)
    homes.lost("r2")
    assert homes.of("j").home is None and homes.of("j").tokens == {"r1": 100}


def test_a_lost_replica_that_serves_again_has_kept_what_it_held() -> None:
    homes = Homes()
    homes.served("j", "r1", 100, now=0.0)
    homes.lost("r1")
    homes.served("k", "r1", 100, now=1.0)
    assert homes.of("j").home == "r1" and homes.of("j").tokens == {"r1": 100}


def test_replicas_that_come_and_go_are_not_remembered_for_ever() -> None:
    homes = Homes(capacity=10)
    for number in range(3 * LOST):
        homes.served("j", f"r{number}", 100, now=float(number))
        homes.lost(f"r{number}")
        homes.check()
    assert len(homes._lost) == LOST and len(homes._jobs["j"].tokens) == COPIES
    assert homes.of("j").tokens == {}


def test_a_new_agent_of_a_tree_begins_at_home_with_nothing() -> None:
    homes = Homes()
    homes.served("tree", "r1", 100, now=0.0)
    plan = homes.plan("tree#a", 50, tree="tree")
    assert (plan.job, plan.home, plan.resident) == ("tree#a", "r1", {})
    homes.served("tree#a", "r2", 50, now=1.0)
    assert homes.plan("tree#a", 60, tree="tree").home == "r2" and homes.of("tree").home == "r1"


class Machine(RuleBasedStateMachine):
    """Homes are replicas that someone has named, and the number of jobs is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.homes = Homes(capacity=4)
        self.now = 0.0

    @rule(job=JOBS, replica=REPLICAS, tokens=st.integers(0, 1000))
    def serve(self, job: str, replica: str, tokens: int) -> None:
        self.now += 1
        self.homes.served(job, replica, tokens, self.now)
        assert self.homes.of(job).home == replica and self.homes.of(job).tokens[replica] == tokens

    @rule(job=JOBS, tokens=st.dictionaries(REPLICAS, st.integers(0, 1000)))
    def tell(self, job: str, tokens: dict[str, int]) -> None:
        home = self.homes.of(job).home
        self.homes.told(job, tokens, self.now + 10)
        assert self.homes.of(job).home in {home, *(name for name, count in tokens.items() if count)}

    @rule(replica=REPLICAS)
    def lose(self, replica: str) -> None:
        self.homes.lost(replica)
        for job in "abcdef":
            assert self.homes.of(job).home != replica and replica not in self.homes.of(job).tokens

    @rule(job=JOBS)
    def end(self, job: str) -> None:
        self.homes.ended(job)
        assert self.homes.of(job).home is None

    @invariant()
    def check(self) -> None:
        self.homes.check()


Machine.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestHomes = Machine.TestCase
