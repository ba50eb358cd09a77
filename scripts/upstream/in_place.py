"""A pytest plugin that puts our classes where vLLM's tests build its own, and notes where they were kept out.

    pytest -p in_place --policy lru --record OUT.jsonl --caching FILE ...

What a test builds itself is replaced as an engine would: a scheduler by ours, which adopts what is below it; a manager
or a pool built without a scheduler is adopted by the same rules. Without `--policy` all runs stock.
"""

import copy
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcache.cost.model import CostModel
from agentcache.cost.profile import CostProfile
from agentcache.errors import Unsupported
from agentcache.policy import make_online_policy
from agentcache.residency import Residency
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.blocks.block_pool import HoleFillingBlockPool
from agentcache.vllm_plugin.blocks.kv_manager import HoleFillingManager
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.launch.tiny_models import model_dir
from agentcache.vllm_plugin.levels import Setup, verdict
from agentcache.vllm_plugin.scheduler import AgentCacheAsyncScheduler, AgentCacheScheduler, ResidencyScheduling
from agentcache.vllm_plugin.steps.attach import attach

IN_PLACE = "in place"
CACHING = "enable_prefix_caching"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--policy", help="put our classes in place, with this eviction policy")
    parser.addoption("--record", type=Path, help="gets one JSON line for each object that a test builds")
    parser.addoption("--caching", type=Path, help="tests, one a line, in which prefix caching is switched on")
    parser.addoption("--outcomes", type=Path, help="gets the outcome of each test, as one JSON object")


def pytest_configure(config: pytest.Config) -> None:
    on = (path := config.getoption("--caching")) and set(path.read_text().splitlines())
    places = Places(config.getoption("--policy"), config.getoption("--record"), on or set())
    config.pluginmanager.register(places, "places")
    if path := config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(path), "outcomes")


class Outcomes:
    """What became of each test, and in which words it failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self.of.get(report.nodeid, ["passed"])[0]
        if report.when == "call" or report.outcome != "passed":
            said = ""
            if report.failed:
                said = getattr(getattr(report.longrepr, "reprcrash", None), "message", None) or report.longreprtext
            if before == "passed":
                self.of[report.nodeid] = [report.outcome, said[:2000]]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.of[report.nodeid] = ["error", report.longreprtext[-2000:]]

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.of))


class Places:
    """The constructors of vLLM's core, watched: what the outermost call has built is looked at, and replaced."""

    def __init__(self, policy: str | None, record: Path | None, caching: set[str]) -> None:
        self.policy, self.record, self.caching = policy, record, caching
        self.depth = 0
        self.test, self.named = "", True
        self.switch_on = False
        self.watch(compat.KVCacheManager, self.manager)
        self.watch(compat.BlockPool, self.pool)
        self.watch(compat.FullAttentionManager, self.group)
        scheduler = ResidencyScheduling if policy else compat.Scheduler
        self.watch(scheduler, self.scheduler)
        compat.Scheduler.__new__ = self.new_scheduler

    # Tests

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:  # none starts a process, and the clean-up after each takes longer than most tests
            item.add_marker("skip_global_cleanup")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        self.named = names_caching(item)
        self.switch_on = item.nodeid in self.caching
        return (yield)

    # Construction

    def watch(self, cls: Any, look: Callable[[Any, bool], None]) -> None:
        stock = cls.__init__

        @functools.wraps(stock)
        def init(instance: Any, *args: Any, **kwargs: Any) -> None:
            with self.inside():
                stock(instance, *args, **kwargs)
            if not self.depth:
                with self.inside():
                    look(instance, inspect.signature(stock).bind(instance, *args, **kwargs).arguments)

        cls.__init__ = init

    @contextmanager
    def inside(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def note(self, thing: Any, found: str, value: str = "", **more: Any) -> None:
        if self.record:
            kind = type(thing).__name__
            line = {"test": self.test, "object": kind, "found": found, "value": value, "named": self.named, **more}
            with self.record.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def new_scheduler(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("vllm_config", args[0] if args else None)
        ours = {compat.Scheduler: AgentCacheScheduler, compat.AsyncScheduler: AgentCacheAsyncScheduler}
        if self.switch_on and config is not None:
            config.cache_config.enable_prefix_caching = True
        if self.policy and cls in ours:
            options = {"policy": self.policy, "on_unsupported": "stock"}
            config.additional_config = {"agentcache": options}
            cls = ours[cls]
        return object.__new__(cls)

    # What was built

    def scheduler(self, scheduler: Any, arguments: dict[str, Any]) -> None:
        caching = scheduler.vllm_config.cache_config.enable_prefix_caching
        if getattr(scheduler, "agentcache", None):
            return self.note(scheduler, IN_PLACE, caching=caching)
        found = verdict(Setup.of(scheduler))
        if found.rule is None and not self.policy:
            return self.note(scheduler, "stock", caching=caching)
        rule, kind = found.rule, type(scheduler).__qualname__
        name, value = (rule.name, str(found.value)) if rule else ("not vLLM's own class", kind)
        return self.note(scheduler, name, value, caching=caching)

    def manager(self, manager: Any, arguments: dict[str, Any]) -> None:
        stand = stand_in(manager, arguments)
        self.place(manager, lambda: attach(stand, options_of(self.policy)), Setup.of(stand))

    def pool(self, pool: Any, arguments: dict[str, Any]) -> None:
        self.place(pool, lambda: adopt_pool(pool, self.policy))

    def group(self, group: Any, arguments: dict[str, Any]) -> None:
        self.place(group, lambda: compat.adopt(group, compat.FullAttentionManager, HoleFillingManager).attach())

    def place(self, thing: Any, adopt: Callable[[], Any], setup: Setup | None = None) -> None:
        if not self.policy:
            return self.note(thing, "stock")
        found = setup and verdict(setup)
        if found and found.rule:
            return self.note(thing, found.rule.name, str(found.value))
        try:
            adopt()
        except Unsupported as reason:
            return self.note(thing, "not vLLM's own class", reason.message)
        return self.note(thing, IN_PLACE)


def names_caching(item: pytest.Item) -> bool:
    """Whether a test says itself, in its text or its parameters, if prefix caching is on."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return CACHING in parameters or CACHING in inspect.getsource(item.function)  # type: ignore[attr-defined]


def options_of(policy: str | None) -> Any:
    return load_options({"agentcache": {"policy": policy or "lru", "on_unsupported": "stock"}})


@functools.cache
def base_config() -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model_dir("tiny-llama"), max_model_len=1024).create_engine_config()


def stand_in(manager: Any, arguments: dict[str, Any]) -> Any:
    """What a scheduler over this manager would be to our rules: of a plain model, with the manager's own settings."""
    config = copy.copy(base_config())
    config.cache_config = copy.copy(config.cache_config)
    config.cache_config.enable_prefix_caching = manager.enable_caching
    config.cache_config.block_size = manager.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
    config.parallel_config = copy.copy(config.parallel_config)
    config.parallel_config.decode_context_parallel_size = arguments.get("dcp_world_size", 1)
    config.parallel_config.prefill_context_parallel_size = arguments.get("pcp_world_size", 1)
    if manager.use_eagle:
        config.speculative_config = SimpleNamespace(method="eagle")
    return SimpleNamespace(
        vllm_config=config,
        kv_cache_config=manager.kv_cache_config,
        kv_cache_manager=manager,
        block_size=config.cache_config.block_size,
        hash_block_size=manager.block_pool.hash_block_size,
        waiting=compat.FCFSRequestQueue(),
        log_stats=False,
    )


def adopt_pool(pool: Any, policy: str) -> None:
    """A pool on its own has neither a model nor requests."""
    if not pool.enable_caching:
        raise Unsupported("prefix caching is off")
    cost = CostModel(CostProfile(c_lin=1.0, c_att=1.0), pool.hash_block_size)
    capacity = pool.num_gpu_blocks - 1
    residency = Residency(make_online_policy(policy, cost, capacity), capacity)
    compat.adopt(pool, compat.BlockPool, HoleFillingBlockPool).attach(Host(residency, block_size=pool.hash_block_size))
