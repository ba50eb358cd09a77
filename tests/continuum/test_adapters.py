"""Both public code bases with our rule and victims inside, over stubs of their documented interfaces."""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcache.cost import CostModel, CostProfile
from agentcache.policy import make_policy
from agentcache_continuum.adapters import preview
from agentcache_continuum.adapters.reload import FEWEST, Reload
from agentcache_continuum.jobs import Jobs
from agentcache_continuum.programs import ProgramLeases, Programs
from agentcache_continuum.rules import Always, Fixed, PaperOptions, PaperV6, Preview, Rule
from tests.continuum.stubs.engine import BLOCK, Request, Status
from tests.continuum.stubs.preview import PreviewScheduler

COST = CostModel(CostProfile(c_lin=0.1, c_att=0.0), BLOCK)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """Runs turns through a scheduler of either kind: names of jobs, lengths in blocks."""

    def __init__(self, scheduler: Any, clock: Clock, xargs: bool) -> None:
        self.scheduler, self.clock, self.xargs = scheduler, clock, xargs
        self.names = 0

    def add(self, job: str | None, blocks: int = 2, salt: int = 0, **said: Any) -> Request:
        self.names += 1
        request = Request(f"r{self.names}", [salt, *range(1, blocks * BLOCK - 2)], arrival_time=self.clock.now)
        fields = {"job_id": job, **said}
        if self.xargs:
            request.extra_args = {name: value for name, value in fields.items() if value is not None}
        else:
            for name, value in fields.items():
                setattr(request, name, value)
        self.scheduler.add_request(request)
        return request

    def run(self, request: Request, output: str = "", status: Status = Status.FINISHED_STOPPED) -> None:
        self.scheduler.schedule()
        assert request in self.scheduler.running, "it does not fit"
        request.output_token_ids = [ord(c) for c in output]
        self.scheduler.finish(request, status)

    def turn(self, job: str | None, blocks: int = 2, output: str = "", seconds: float = 1.0, **said: Any) -> Request:
        request = self.add(job, blocks, **said)
        self.clock.now += seconds
        self.run(request, output)
        return request

    @property
    def pinned(self) -> list[str]:
        if self.xargs:
            return sorted(self.scheduler._continuum_pins._pins)
        return sorted({pin.job_id for pin, _ in self.scheduler.pinned_requests})


def previewed(rule: Callable[[], Rule] = PaperV6, blocks: int = 32, **attributes: Any) -> Driver:
    clock = Clock()
    cls = preview.adapted(PreviewScheduler)
    made = type("Test", (cls,), {"rule": staticmethod(rule), "clock": clock, **attributes})(blocks=blocks)
    return Driver(made, clock, xargs=False)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stub of the plug-in in the place of the real one."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stubs"))
    for name in ("continuum_vllm", "continuum_vllm.policy", "continuum_vllm.scheduler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("continuum_vllm", "continuum_vllm.policy", "continuum_vllm.scheduler"):
        sys.modules.pop(name, None)


def plugged(rule: Callable[[], Rule] = PaperV6, blocks: int = 32) -> Driver:
    from agentcache_continuum.adapters import plugin

    clock = Clock()
    cls = plugin.AsyncScheduler
    decision = sys.modules["continuum_vllm.policy"].TTLDecision
    policy = plugin.AgentCacheTTLPolicy(rule(), Reload(COST), decision)
    made = cls(
        blocks=blocks,
        continuum_clock=clock,
        continuum_ttl_policy=policy,
        continuum_output_decoder=lambda ids: "".join(map(chr, ids)),
    )
    return Driver(made, clock, xargs=True)


# The defects of the preview, by their common names


def test_all_expired_pins_go_in_one_tick() -> None:
    driver = previewed(lambda: Fixed(5.0), blocks=64)
    for job in "abcd":
        driver.turn(job, this_func_call="ls")
    assert driver.pinned == list("abcd")
    driver.clock.now += 6.0
    driver.scheduler.unpin_requests_regular()
    assert (driver.pinned, driver.scheduler.kv_cache_manager.held) == ([], {})


def test_pressure_unpins_the_program_that_arrived_latest_whatever_its_expiry() -> None:
    for driver in (previewed(Always, blocks=20), previewed(lambda: Fixed(50.0), blocks=20)):
        driver.turn("first", 3, this_func_call="ls")
        driver.turn("second", 3, this_func_call="ls")
        driver.clock.now += 1.0
        driver.turn("first", 4, this_func_call="ls")  # the latest expiry, and the oldest program
        big = driver.add("third", 15)
        driver.scheduler.schedule()
        assert big in driver.scheduler.running
        assert driver.pinned == ["first"]


def test_two_turns_of_one_job_and_jobs_without_a_name() -> None:
    driver = previewed(lambda: Fixed(5.0), blocks=64)
    left, right = driver.add("a", salt=1), driver.add("a", salt=2)
    nameless = [driver.add(None), driver.add(None)]
    for request in (left, right, *nameless):
        driver.run(request, "```bash\nls -l\n```")
    assert len({request.job_id for request in nameless}) == 2
    estimator = driver.scheduler.tool_call_estimator
    assert estimator.jobs.conflicts.concurrent_turns == 1
    assert driver.pinned.count("a") == 1, "the branch that ended last"
    # The pin of one branch outlives another branch's turn.
    driver.turn("a", salt=3, this_func_call="ls")
    assert len([pin for pin, _ in driver.scheduler.pinned_requests if pin.job_id == "a"]) == 2


def test_the_client_s_word_counts_and_openai_calls_are_found() -> None:
    driver = previewed(lambda: Fixed(5.0), blocks=64)
    said = driver.turn("a", this_func_call="grep", output="no block at all")
    called = driver.turn("b", output='<tool_call>{"name": "search", "arguments": {}}</tool_call>')
    assert (said.this_func_call, called.this_func_call) == ("grep", "search")
    assert driver.pinned == ["a", "b"]


def test_a_tool_on_a_job_s_first_turn_is_no_error() -> None:
    driver = previewed()
    driver.turn("a", last_func_call="ls")
    assert driver.scheduler.tool_call_estimator.jobs.conflicts.unknown_tool == 1


@pytest.mark.parametrize("status", [Status.FINISHED_ABORTED, Status.FINISHED_ERROR])
def test_aborted_and_failed_turns_are_not_pinned(stubs: None, status: Status) -> None:
    for driver in (previewed(Always), plugged(Always)):
        request = driver.add("a", this_func_call="ls")
        driver.run(request, status=status)
        assert driver.pinned == []
        assert not driver.scheduler.kv_cache_manager.held


def test_pins_go_before_a_running_turn_is_preempted() -> None:
    driver = previewed(Always, blocks=12)
    driver.turn("idle", 4, this_func_call="ls")
    running = [driver.add("x", 4), driver.add("y", 4)]
    driver.scheduler.schedule()
    for request in running:
        request.output_token_ids = [7] * (BLOCK - 1)  # each needs one block more
    driver.scheduler.schedule()
    assert (driver.pinned, driver.scheduler.preemptions) == ([], 0)
    assert driver.scheduler.running == running, "nobody was taken out and put back"


def test_one_running_turn_and_no_pin_is_preempted_not_fatal() -> None:
    driver = previewed(blocks=4)
    alone = driver.add("a", 3, is_last_step=True)
    driver.scheduler.schedule()
    assert driver.scheduler.pop_running_request_based_on_last_step(alone) == (alone, False)


def test_what_is_remembered_of_jobs_is_bounded() -> None:
    jobs = Jobs(Preview(), most=50)
    for number in range(1000):
        jobs.arrived(f"job {number}", None, float(number))
        jobs.finished(f"job {number}", "ls", 1.0, float(number), last=False)
    assert (len(jobs), len(jobs.pauses)) == (50, 50)
    jobs.arrived("job 999", None, 1e9)  # a session that was left open over a weekend
    assert not jobs.rule.durations.all  # type: ignore[attr-defined]


def test_a_step_of_the_wall_clock_moves_no_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = previewed(lambda: Fixed(5.0))
    driver.turn("a", this_func_call="ls")
    monkeypatch.setattr("time.time", lambda: 4e9)
    driver.scheduler.unpin_requests_regular()
    assert driver.pinned == ["a"]


def test_another_branch_s_waiting_turn_does_not_keep_an_expired_pin() -> None:
    driver = previewed(lambda: Fixed(5.0))
    driver.turn("a", salt=1, this_func_call="ls")
    driver.clock.now += 60.0
    waiting = driver.add("a", 3, salt=1)
    driver.scheduler.unpin_requests_regular()
    assert driver.pinned == ["a"], "its own next turn waits"
    driver.scheduler.waiting.remove(waiting)
    driver.add("a", 3, salt=2)
    driver.scheduler.unpin_requests_regular()
    assert driver.pinned == []


def test_a_waiting_turn_does_not_starve_behind_pins_while_something_runs() -> None:
    driver = previewed(Always, blocks=16)
    driver.turn("idle", 6, this_func_call="ls")
    driver.add("runs", 5)
    driver.scheduler.schedule()
    waiting = driver.add("waits", 8)
    driver.scheduler.schedule()
    assert waiting in driver.scheduler.running


def test_pins_hold_a_share_of_the_pool(stubs: None) -> None:
    for driver in (previewed(Always, blocks=16), plugged(Always, blocks=16)):
        for job in "abc":
            driver.turn(job, 4, this_func_call="ls")
        driver.scheduler.schedule()
        assert driver.pinned == ["a", "b"], "8 of 16 blocks, the latest program yields"


# The plug-in


def test_a_failed_turn_does_not_end_its_siblings_job(stubs: None) -> None:
    driver = plugged(lambda: PaperV6(PaperOptions(k=0)))
    policy = driver.scheduler._continuum_ttl_policy
    sibling, doomed = driver.add("a", this_func_call="ls"), driver.add("a", this_func_call="ls")
    driver.scheduler.schedule()
    driver.scheduler.finish(doomed, Status.FINISHED_ABORTED)
    driver.run(sibling)
    driver.clock.now += 3.0
    driver.add("a", last_func_call="ls")
    assert list(policy.jobs.rule.durations.of["ls"]) == [3.0]


def test_a_tier_that_reports_no_loads_makes_no_long_pins() -> None:
    reload = Reload(COST)
    assert reload.seconds(160, tier=False) == pytest.approx(16.0)
    assert reload.seconds(160, tier=True) == 0.0
    for _ in range(FEWEST):
        reload.observe(100, 0.5)
    reload.observe(100, -3.0)
    assert reload.negative == 1
    assert reload.seconds(160, tier=True) == pytest.approx(0.8)
    assert reload.seconds(1, tier=True) <= reload.seconds(1, tier=False)


def test_the_scheduler_of_the_plug_in_is_found_by_name_and_gets_its_clock(stubs: None) -> None:
    from agentcache_continuum.adapters import plugin

    for name in ("Scheduler", "AsyncScheduler"):
        made = getattr(plugin, name)(blocks=8)
        assert type(made._continuum_ttl_policy).__name__ == "AgentCacheTTLPolicy"
        assert type(made._continuum_pins).__name__ == "LeasedPins"
    assert not hasattr(plugin, "Other")


def test_a_returning_turn_takes_its_pin_and_teaches_the_rule(stubs: None) -> None:
    driver = plugged(lambda: Fixed(10.0))
    driver.turn("a", 2, this_func_call="ls")
    assert driver.pinned == ["a"]
    driver.turn("a", 3, is_last_step=1)
    assert (driver.pinned, driver.scheduler.kv_cache_manager.held) == ([], {})


# One log through everything


HISTORY = [
    # (seconds later, job, blocks, tool, last)
    (1.0, "a", 2, "ls", False),
    (2.0, "b", 3, "grep", False),
    (0.5, "a", 3, "ls", False),
    (4.0, "c", 2, "ls", False),
    (1.0, "b", 4, "grep", False),
    (0.25, "a", 4, None, True),
    (8.0, "c", 3, "ls", False),
    (2.0, "b", 5, None, True),
    (0.5, "c", 4, "grep", False),
]


@pytest.mark.parametrize("k", [0, 2, 100])
@pytest.mark.parametrize("make", [Rule, Always, lambda: Fixed(3.0), Preview, None])
def test_native_and_both_adapters_give_the_same_times_to_the_last_bit(
    stubs: None, make: Callable[[], Rule] | None, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.continuum.test_programs import Bench

    def rule() -> Rule:
        made = PaperV6(PaperOptions(k=k)) if make is None else make()
        answers: list[float] = []
        asked = made.keep_s

        def keep_s(tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
            answers.append(asked(tool, reload_s, pause_s))
            return answers[-1]

        made.keep_s, made.answers = keep_s, answers  # type: ignore[attr-defined, method-assign]
        return made

    monkeypatch.setattr(preview, "cost_of", lambda block_size: COST)
    logs = []
    for driver in (previewed(rule, blocks=640), plugged(rule, blocks=640)):
        before: dict[str, str] = {}
        for later, job, blocks, tool, last in HISTORY:
            driver.clock.now += later
            said = {"this_func_call": tool, "is_last_step": last, "last_func_call": before.get(job)}
            driver.turn(job, blocks, seconds=1.0, **said)
            before[job] = tool or ""
        source = driver.scheduler._continuum_ttl_policy if driver.xargs else driver.scheduler.tool_call_estimator
        logs.append(source.jobs.rule.answers)

    native = rule()
    programs = Programs("continuum", COST, 640, native, share=1.0)
    bench = Bench(ProgramLeases(programs, make_policy("lru", COST, 640)), pool=640)
    now = Clock.now
    for later, job, blocks, tool, last in HISTORY:
        now += later
        turn = bench.arrive(job, blocks, now)
        now += 1.0
        bench.start(turn, job, blocks, now)
        bench.finish(turn, job, blocks, now, tool, last=last)
    logs.append(native.answers)  # type: ignore[attr-defined]
    assert logs[0] == logs[1] == logs[2]
    assert len(logs[0]) == 7


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_native_and_both_adapters_choose_the_same_victims(stubs: None, order: list[str]) -> None:
    from tests.continuum.test_programs import Bench

    orders = []
    for driver in (previewed(Always, blocks=640), plugged(Always, blocks=640)):
        for job in order:
            driver.turn(job, this_func_call="ls")
        gone = []
        while driver.pinned:
            if driver.xargs:
                gone.append(driver.scheduler._continuum_pins.release_for_pressure().job_id)
            else:
                pin = driver.scheduler._newest()
                gone.append(pin[0].job_id)
                driver.scheduler._drop(*pin)
        orders.append(gone)
    bench = Bench("continuum-always+lru", pool=640)
    for now, job in enumerate(order):
        bench.turn(job, 2, 2.0 * now)
    native: list[str] = []
    while len(bench.core):
        native += [key.partition(":")[0] for key in bench.evict(2, 1000.0)][:1]
    orders.append(native)
    assert orders[0] == orders[1] == orders[2] == sorted(set(order), key=order.index, reverse=True)


@pytest.mark.skipif(find_spec("continuum_vllm") is None, reason="the plug-in is not installed: its drift is not tested")
def test_the_real_plug_in_still_has_what_we_use() -> None:
    from importlib import import_module

    policy, scheduler = (import_module(f"continuum_vllm.{name}") for name in ("policy", "scheduler"))
    assert {"TTLDecision", "PinManager", "ContinuumRequestMetadata"} <= set(dir(policy))
    assert {"ContinuumScheduler", "AsyncContinuumScheduler"} <= set(dir(scheduler))
