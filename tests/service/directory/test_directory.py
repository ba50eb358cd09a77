"""The directory alone: what it knows from reports, what it decides, and what it says to clients."""

import msgspec
import pytest

from agentcache.api.messages import (
    Answer,
    ContextState,
    Done,
    EndJob,
    EndTurn,
    Evict,
    FinishTool,
    Pause,
    Release,
    ReleaseJob,
    Reply,
    Report,
    Retain,
    RetainJob,
    StartJob,
    StartTool,
    ToolBegan,
    ToolEnded,
)
from agentcache.errors import ConfigError
from agentcache.service.directory import upkeep
from agentcache.service.directory.books import QUEUE
from agentcache.service.directory.directory import Directory, DirectoryConfig


class Cluster:
    """Engines that report to one directory, on a clock that the test moves."""

    def __init__(self, **options: object) -> None:
        self.directory = Directory(DirectoryConfig(page_tokens=100, **options), incarnation=1.0)  # type: ignore[arg-type]
        self.now = 1000.0
        self.seqs: dict[str, int] = {}

    def report(self, engine: str, *contexts: ContextState, **fields: object) -> Reply:
        seq = self.seqs[engine] = self.seqs.get(engine, 0) + 1
        fields = {"epoch": "1", "seq": seq, "full": seq == 1} | fields
        reply = self.directory.report(Report(engine=engine, contexts=contexts, **fields), self.now)  # type: ignore[arg-type]
        self.directory.check()
        return reply

    def turn(self, engine: str, name: str, tokens: int, **fields: object) -> Reply:
        """A turn of a context comes and goes on an engine, which holds all of it then."""
        self.report(engine, running(name, tokens))
        return self.report(engine, idle(name, tokens, **fields))

    def wait(self, seconds: float, *engines: str) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            for engine in engines:
                self.report(engine)
            self.directory.tick(self.now)
        self.directory.check()

    def apply(self, action: object, tenant: str = "t") -> Answer:
        answer = self.directory.apply(action, tenant, self.now)  # type: ignore[arg-type]
        self.directory.check()
        return answer


def idle(name: str, tokens: int, **fields: object) -> ContextState:
    fields = {"standing": "tool", "runs": ((0, tokens),) if tokens else (), "depth": 1} | fields
    return ContextState(f"t/{name}", f"t/{name}", "idle", tokens=tokens, **fields)  # type: ignore[arg-type]


def running(name: str, tokens: int, resident: int = 0) -> ContextState:
    return ContextState(f"t/{name}", f"t/{name}", "running", tokens=tokens, runs=((0, resident),) if resident else ())


def test_what_host_memory_has_is_paid_for_by_a_load_where_that_is_sooner() -> None:
    cluster = Cluster()
    held = {"runs": ((600, 1000),), "below": ((0, 100), (200, 600))}
    costs = {"c_lin": 1.0, "c_att": 0.01, "load_s": 3.0}  # of a token: from 1.0 at the head on, up to 21
    cluster.report("a", idle("job", 1000, **held), **costs)
    (copy,) = cluster.directory.snapshot("t", 10, cluster.now).contexts[0].copies
    assert (copy.resident_tokens, copy.below) == (400, ((0, 100), (200, 600)))
    head, middle, loaded = 100 + 0.01 * 100**2, 100 + 0.01 * (200**2 - 100**2), 3.0 * 400
    assert copy.rebuild_s == pytest.approx(head + middle + loaded)
    cluster.report("a", idle("job", 1000, runs=((600, 1000),), below=()), **costs)
    (copy,) = cluster.directory.snapshot("t", 10, cluster.now).contexts[0].copies
    assert copy.below == () and copy.rebuild_s == pytest.approx(600 + 0.01 * 600**2)


def test_a_report_shows_where_a_context_is() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    (view,) = cluster.directory.snapshot("t", 10, cluster.now).contexts
    (copy,) = view.copies
    assert (view.id, view.tokens, view.standing) == ("t/job", 1000, "tool")
    assert (copy.engine, copy.resident_tokens, copy.home, copy.rebuild_s) == ("a", 1000, True, 0.0)


def test_an_older_copy_elsewhere_is_evicted() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.turn("b", "job", 1200)
    (command,) = cluster.report("a").commands
    assert isinstance(command, Evict)
    assert (command.context, command.start, command.end, command.reason) == ("t/job", 0, 1200, "duplicate")
    assert cluster.directory.snapshot(None, 10, cluster.now).contexts[0].copies[0].resident_tokens == 0
    # Truth is what the engine says next.
    cluster.report("a", idle("job", 1000, runs=((900, 1000),)), done=(Done(command.id, "clipped", 900),))
    assert cluster.directory.snapshot(None, 10, cluster.now).contexts[0].copies[0].resident_tokens == 100


def test_a_copy_whose_turn_runs_is_left_alone() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.report("a", running("job", 1100, 1000))
    cluster.turn("b", "job", 1200)
    assert cluster.report("a").commands == ()


def test_the_end_of_a_job_is_told_to_the_other_engines() -> None:
    cluster = Cluster(duplicates=False)
    cluster.turn("a", "job", 1000)
    cluster.turn("b", "job", 1200, standing="ended")
    (command,) = cluster.report("a").commands
    assert isinstance(command, Release)
    assert command.job == "t/job"
    assert cluster.report("b").commands == ()


def test_how_a_context_stands_is_what_its_home_says() -> None:
    cluster = Cluster(duplicates=False)
    cluster.turn("a", "job", 1000)
    cluster.turn("b", "job", 1200)
    cluster.report("a", idle("job", 1000, standing="ended"))
    assert cluster.directory.snapshot("t", 1, cluster.now).contexts[0].standing == "tool"
    cluster.report("b", idle("job", 1200, standing="ended"))
    assert cluster.directory.snapshot("t", 1, cluster.now).contexts[0].standing == "ended"


@pytest.mark.parametrize("policy", ["return-index", "asymcache", "lru"])
def test_a_tenant_over_its_budget_loses_what_is_worth_least(policy: str) -> None:
    cluster = Cluster(policy=policy, budgets={"t": 2500})
    for name in ("old", "middle"):
        cluster.turn("a", name, 1000)
        cluster.wait(5, "a", "b")
    cluster.turn("b", "new", 1000)
    commands = cluster.report("a").commands
    assert sum(command.end - command.start for command in commands if isinstance(command, Evict)) == 500
    assert {command.reason for command in commands} == {"tenant over budget"}  # type: ignore[union-attr]
    (tenant,) = (view for view in cluster.directory.snapshot(None, 0, cluster.now).tenants if view.tenant == "t")
    assert tenant.resident_tokens == 2500


def test_a_lease_is_kept_from_budgets_and_sent_to_engines() -> None:
    cluster = Cluster(budget_tokens=2000, policy="lru")
    cluster.turn("a", "kept", 1000)
    answer = cluster.apply(RetainJob(job="kept", ttl_s=30.0))
    assert (answer.outcome, answer.granted_s) == ("accepted", 30.0)
    (command,) = cluster.report("a").commands
    assert isinstance(command, Retain)
    assert command.ttl_s == 30.0
    cluster.turn("a", "other", 1000)
    cluster.turn("a", "third", 1000)
    views = {
        view.id: view.copies[0].resident_tokens for view in cluster.directory.snapshot("t", 10, cluster.now).contexts
    }
    assert views == {"t/kept": 1000, "t/other": 0, "t/third": 1000}


def test_leases_are_clipped_refused_deferred_renewed_and_expire() -> None:
    cluster = Cluster(lease_s=10.0, lease_tokens=1500)
    assert cluster.apply(RetainJob(job="job", ttl_s=5.0)).outcome == "missing"
    cluster.apply(StartJob(job="job"))
    early = cluster.apply(RetainJob(job="job", ttl_s=5.0))
    assert early.outcome == "deferred"
    reply = cluster.turn("a", "job", 1000)
    assert [type(command) for command in reply.commands] == [Retain]
    long = cluster.apply(RetainJob(job="job", ttl_s=100.0, lease=early.lease))
    assert (long.outcome, long.granted_s, long.lease) == ("clipped", 10.0, early.lease)
    cluster.turn("a", "big", 1000)
    assert cluster.apply(RetainJob(job="big", ttl_s=5.0)).outcome == "rejected"
    cluster.wait(11, "a")
    assert cluster.apply(RetainJob(job="big", ttl_s=5.0)).outcome == "accepted"
    assert cluster.apply(RetainJob(job="job", ttl_s=5.0, lease=early.lease)).outcome == "missing"
    cluster.apply(EndJob(job="big"))
    assert cluster.apply(RetainJob(job="big", ttl_s=5.0)).outcome == "rejected"


def test_what_a_client_says_reaches_the_engines() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    for action in (
        StartTool(job="job", tool="bash", expected_s=3.0),
        FinishTool(job="job", tool="bash"),
        ReleaseJob(job="job"),
        EndTurn(job="job", last=True),
        EndJob(job="job"),
    ):
        assert cluster.apply(action).outcome == "accepted"
    told = [type(command) for command in cluster.report("a").commands]
    assert told == [ToolBegan, ToolEnded, Release, Release]


def test_a_tenant_neither_sees_nor_touches_anothers_job() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    assert cluster.apply(EndJob(job="job"), tenant="thief").outcome == "missing"
    assert cluster.apply(EndJob(job="../t/job"), tenant="thief").outcome == "missing"
    assert cluster.directory.explain("thief", "job", cluster.now).outcome == "missing"
    view = cluster.directory.snapshot("thief", 10, cluster.now)
    assert (view.contexts, view.counts, view.engines) == ((), {}, ())
    assert cluster.report("a").commands == ()


def test_one_request_id_is_carried_out_once() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    answers = [cluster.apply(RetainJob(job="job", ttl_s=5.0, request_id="r")) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(cluster.report("a").commands) == 1


def test_a_hole_is_priced_where_it_lies() -> None:
    cluster = Cluster()
    cluster.report("a", idle("job", 1000, runs=((400, 700),)), c_lin=1.0, c_att=0.001)
    (copy,) = cluster.directory.explain("t", "job", cluster.now).contexts[0].copies
    assert copy.rebuild_s == pytest.approx(700 + 0.001 * (400**2 + 1000**2 - 700**2))


def test_explain_says_what_returns_paid_and_what_was_decided() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.report("a", idle("job", 1000, runs=((500, 1000),)))
    cluster.turn("a", "job", 1200)
    cluster.turn("b", "job", 1200)
    explained = cluster.directory.explain("t", "job", cluster.now)
    here, elsewhere = 3.33e-5 * 500 + 6.55e-10 * 500**2, 3.33e-5 * 1200 + 6.55e-10 * 1200**2
    assert explained.paid_s == pytest.approx(here + elsewhere)
    assert explained.saved_s == pytest.approx(3.33e-5 * 500 + 6.55e-10 * (1000**2 - 500**2))
    assert explained.decisions == ("evict 1200 tokens of t/job in a: duplicate",)


def test_a_turn_shorter_than_the_report_period_is_a_return() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.report("a", idle("job", 1000, runs=((500, 1000),)))
    cluster.report("a", idle("job", 1200, depth=2, tool="bash"))  # nobody saw it run
    explained = cluster.directory.explain("t", "job", cluster.now)
    (view,) = explained.contexts
    assert (view.depth, view.tokens, view.tool, view.copies[0].resident_tokens) == (2, 1200, "bash", 1200)
    assert explained.paid_s == pytest.approx(3.33e-5 * 500 + 6.55e-10 * 500**2)
    assert explained.saved_s == pytest.approx(3.33e-5 * 500 + 6.55e-10 * (1000**2 - 500**2))


def test_every_short_turn_counts_whatever_runs_before_or_after() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    whole = 3.33e-5 * 1000 + 6.55e-10 * 1000**2

    def saved() -> float:
        explained = cluster.directory.explain("t", "job", cluster.now)
        assert explained.paid_s == 0.0
        return explained.saved_s / whole

    cluster.report("a", idle("job", 1000, depth=4))  # three
    assert saved() == pytest.approx(3)
    cluster.report("a", msgspec.structs.replace(running("job", 1000, 1000), depth=5))  # one, and one that runs
    assert saved() == pytest.approx(5)
    cluster.report("a", msgspec.structs.replace(running("job", 1000, 1000), depth=6))  # it is over, the next one runs
    assert saved() == pytest.approx(6)
    cluster.report("a", idle("job", 1000, depth=7))
    assert saved() == pytest.approx(6)
    cluster.report("a", idle("job", 1000, depth=7, runs=()))  # blocks left, no turn came
    cluster.report("a", idle("job", 1000, depth=7))
    assert saved() == pytest.approx(6)


def test_a_short_turn_elsewhere_moves_the_home() -> None:
    cluster = Cluster()
    cluster.report("b")
    cluster.turn("a", "job", 1000)
    cluster.now += 1
    cluster.report("b", idle("job", 1200, idle_s=0.5))
    assert [type(command) for command in cluster.report("a").commands] == [Evict]
    explained = cluster.directory.explain("t", "job", cluster.now)
    assert {copy.engine: copy.home for copy in explained.contexts[0].copies} == {"a": False, "b": True}
    assert explained.paid_s == pytest.approx(3.33e-5 * 1000 + 6.55e-10 * 1000**2)
    cluster.now += 1
    cluster.report("a", idle("job", 1400, depth=2, idle_s=0.5))
    (view,) = cluster.directory.snapshot("t", 1, cluster.now).contexts
    assert (view.tokens, {copy.engine: copy.home for copy in view.copies}) == (1400, {"a": True, "b": False})
    paid_s = cluster.directory.explain("t", "job", cluster.now).paid_s
    assert paid_s > explained.paid_s
    cluster.report("c", idle("job", 1300, depth=9, idle_s=0.2))  # it has joined: what it did before is not known
    cluster.report("d")
    cluster.now += 1
    cluster.report("d", idle("job", 1300, depth=9, idle_s=30.0))  # told late, that is all
    assert cluster.directory.explain("t", "job", cluster.now).paid_s == paid_s


def test_a_context_that_was_forgotten_and_came_again_within_a_period_has_run() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000, depth=5)
    cluster.report("a", idle("job", 300, depth=1))
    (view,) = cluster.directory.snapshot("t", 1, cluster.now).contexts
    assert (view.depth, view.tokens) == (1, 300)


def test_a_silent_engine_is_forgotten_and_others_are_not() -> None:
    cluster = Cluster(heartbeat_s=5.0)
    cluster.turn("a", "job", 1000)
    cluster.turn("b", "other", 1000)
    cluster.wait(7, "b")
    snapshot = cluster.directory.snapshot(None, 10, cluster.now)
    assert [engine.name for engine in snapshot.engines] == ["b"]
    assert [view.id for view in snapshot.contexts] == ["t/other"]
    assert snapshot.counts["engines_silent"] == 1


@pytest.mark.parametrize("leap", [3600.0, -3600.0])
def test_a_clock_that_leaps_costs_nobody_anything(leap: float) -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.apply(RetainJob(job="job", ttl_s=30.0))
    cluster.now += leap
    cluster.directory.tick(cluster.now)
    cluster.wait(2, "a")
    snapshot = cluster.directory.snapshot("t", 10, cluster.now)
    assert (len(snapshot.contexts), snapshot.tenants[0].leases) == (1, 1)
    assert cluster.directory.counts["clock_leaps"] == 1
    cluster.wait(30, "a")
    assert cluster.directory.snapshot("t", 10, cluster.now).tenants[0].leases == 0


def test_an_engine_that_restarted_starts_anew() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.seqs.clear()
    reply = cluster.report("a", epoch="2", full=False)
    assert reply.resync
    assert len(cluster.directory) == 0
    reply = cluster.report("a", idle("job", 500), epoch="2", full=True)
    assert not reply.resync
    assert len(cluster.directory) == 1


def test_lost_and_repeated_reports() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    seq = cluster.seqs["a"]
    assert not cluster.report("a", idle("job", 10), seq=seq).resync  # repeated: not taken in
    assert cluster.directory.snapshot("t", 1, cluster.now).contexts[0].tokens == 1000
    cluster.seqs["a"] = seq + 3
    assert cluster.report("a").resync
    assert not cluster.report("a", idle("new", 10), full=True).resync
    assert [view.id for view in cluster.directory.snapshot("t", 9, cluster.now).contexts] == ["t/new"]


def test_a_command_that_is_never_answered_asks_for_the_truth() -> None:
    cluster = Cluster(ack_s=2.0)
    cluster.turn("a", "job", 1000)
    cluster.turn("b", "job", 1200)
    assert len(cluster.report("a").commands) == 1  # and the reply is lost
    cluster.wait(4, "a", "b")
    assert cluster.report("a").resync
    cluster.report("a", idle("job", 1000, idle_s=6.0), full=True)
    (command,) = cluster.report("a", idle("job", 1000)).commands or (None,)
    assert command is None or isinstance(command, Evict)


def test_leases_and_ends_are_told_again_after_a_full_report() -> None:
    cluster = Cluster()
    cluster.turn("a", "job", 1000)
    cluster.turn("a", "done", 1000)
    cluster.apply(RetainJob(job="job", ttl_s=30.0))
    cluster.apply(EndJob(job="done"))
    cluster.report("a")  # this reply is lost
    reply = cluster.report("a", idle("job", 1000), idle("done", 1000), full=True)
    assert {type(command) for command in reply.commands} >= {Retain}


def test_idle_contexts_age_out_and_bounds_hold() -> None:
    cluster = Cluster(idle_out_s=10.0, max_contexts=5, max_pages=40)
    for number in range(9):
        cluster.turn("a", f"job{number}", 300)
    assert len(cluster.directory) == 5
    cluster.report("a", idle("giant", 10_000))
    assert len(cluster.directory) <= 5
    cluster.wait(12, "a")
    assert len(cluster.directory) == 0


def test_an_engine_that_is_silent_is_forgotten_piece_by_piece_and_may_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "_AT_ONCE", 4)
    cluster = Cluster(heartbeat_s=5.0)
    contexts = [idle(f"job{number}", 300) for number in range(10)]
    cluster.report("a", *contexts)
    cluster.report("b", idle("other", 300))
    cluster.wait(6, "b")
    assert len(cluster.directory) == 7
    assert cluster.report("a").resync  # it is heard of again, and shows all it holds
    cluster.report("a", *contexts, full=True)
    assert len(cluster.directory) == 11
    cluster.wait(8, "b")
    assert len(cluster.directory) == 1 and cluster.directory.counts["engines_silent"] == 1


def test_jobs_of_one_age_are_forgotten_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_AT_ONCE", 4)
    cluster = Cluster(idle_out_s=10.0)
    cluster.report("a", *(idle(f"job{number}", 300) for number in range(10)))
    left = []
    for _ in range(16):
        cluster.wait(1, "a")
        left.append(len(cluster.directory))
    assert left[9:] == [10, 6, 2, 0, 0, 0, 0]


def test_contexts_that_run_are_not_crowded_out() -> None:
    cluster = Cluster(max_contexts=10)
    cluster.report("a", *(running(f"running{number}", 100) for number in range(8)))
    for number in range(20):
        cluster.report("a", idle(f"idle{number}", 100))
    names = {view.id for view in cluster.directory.snapshot("t", 20, cluster.now).contexts}
    assert names == {f"t/running{number}" for number in range(8)} | {"t/idle18", "t/idle19"}
    cluster.directory.check()


def test_commands_that_an_engine_never_answers_are_not_remembered_for_ever() -> None:
    cluster = Cluster()
    cluster.report("a", idle("job", 300))
    for number in range(3):
        for _ in range(QUEUE):
            cluster.apply(StartTool(job="job", tool="bash"))
        reply = cluster.report("a")
        assert len(reply.commands) == QUEUE and reply.resync == (number > 0)
    assert len(cluster.directory._books.engines["a"].sent) == QUEUE
    assert cluster.directory.counts["commands_lost"] == 2 * QUEUE
    cluster.report("a", idle("job", 300), full=True)
    assert not cluster.directory._books.engines["a"].sent


def test_tenants_without_jobs_make_room_for_others() -> None:
    cluster = Cluster(max_tenants=3, idle_out_s=5.0)
    tenants = cluster.directory._books.tenants
    for number in range(10):
        cluster.apply(EndJob(job="nobody"), tenant=f"idle{number}")
        assert len(tenants) <= 3
    for number in range(10):
        cluster.apply(StartJob(job="job"), tenant=f"busy{number}")
    assert len(tenants) == 10
    cluster.wait(7)
    cluster.apply(EndJob(job="nobody"), tenant="late")
    assert list(tenants) == ["late"]


def test_contexts_that_only_their_job_names_are_matched_between_engines() -> None:
    cluster = Cluster()

    def state(name: str, tokens: int) -> ContextState:
        return ContextState(name, "t/job", "idle", "tool", tokens=tokens, runs=((0, tokens),))

    def ids() -> set[str]:
        return {view.id for view in cluster.directory.snapshot("t", 9, cluster.now).contexts}

    cluster.report("b")
    cluster.report("a", state("t/job#4", 100))
    cluster.wait(1, "a", "b")
    cluster.now += 0.5
    cluster.report("b", state("t/job#1", 200))  # it goes on elsewhere
    assert ids() == {"t/job#"} and cluster.report("a").commands
    cluster.report("a", state("t/job#5", 300))  # a sub-agent
    cluster.report("c", state("t/job#1", 400))  # of whom this may be, nobody can say
    assert ids() == {"t/job#", "a:t/job#5", "c:t/job#1"}


def test_a_sub_agent_on_another_engine_overtakes_no_parent() -> None:
    cluster = Cluster()

    def state(name: str, tokens: int, idle_s: float = 0.0) -> ContextState:
        return ContextState(name, "t/job", "idle", "tool", "Agent", tokens=tokens, runs=((0, tokens),), idle_s=idle_s)

    cluster.report("b")
    cluster.report("a", state("t/job#1", 1000))
    cluster.wait(1, "a", "b")
    cluster.now += 0.5
    cluster.report("b", state("t/job#1", 400))  # shorter: it begins
    assert cluster.report("a").commands == ()
    # A service that has started anew hears of both as of idle ones, of which the longer one is no later turn.
    cluster = Cluster()
    cluster.report("a", state("t/job#1", 300, 5.0))
    cluster.report("b", state("t/job#1", 400, 1.0))
    assert cluster.report("a").commands == cluster.report("b").commands == ()


def test_contexts_without_a_name_are_an_engines_own() -> None:
    cluster = Cluster()
    for engine in "ab":
        cluster.report(engine, ContextState("~1", "~1", "idle", tokens=100, runs=((0, 100),)))
    assert {view.id for view in cluster.directory.snapshot(None, 9, cluster.now).contexts} == {"a:~1", "b:~1"}
    assert cluster.report("a").commands == ()


def test_pauses_are_told_to_the_other_engines_once() -> None:
    cluster = Cluster()
    seen = tuple(Pause("tool", "bash", 1, float(second)) for second in range(300))
    assert cluster.report("a", pauses=seen).parameters.pauses == ()
    assert cluster.report("b").parameters.pauses == seen[:200]
    assert cluster.report("b").parameters.pauses == seen[200:]
    assert cluster.report("b").parameters.pauses == ()
    assert cluster.report("late").parameters.pauses == seen[:200]
    (view,) = cluster.directory.snapshot(None, 0, cluster.now).pauses
    assert (view.tool, view.count, view.p50_s, view.p90_s) == ("bash", 300, 150.0, 270.0)


def test_options_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="heartbeat_s is 0"):
        Directory(DirectoryConfig(heartbeat_s=0.0))
    with pytest.raises(ConfigError, match="unknown policy 'none'"):
        Directory(DirectoryConfig(policy="none"))
