"""The judge of `agentcache verify --paths all`: the settings, the sums, and what is no proof. No engine runs here."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.lab.verify.engine.cases import Case, Setting, withdrawal
from agentcache.vllm_plugin.lab.verify.engine.outcome import Finding, Outcome
from agentcache.vllm_plugin.lab.verify.engine.paths import REQUIRED, REQUIRED_SHARED, drawn, not_walked
from agentcache.vllm_plugin.lab.verify.engine.settings import ALL, MODELS, choose, spread

LLAMA = Setting("tiny-llama", "float32")


def test_the_settings_meet_every_model_precision_scheduler_mode_order_and_runner() -> None:
    assert len({setting.name for setting in ALL}) == len(ALL)
    for model in MODELS:
        mine = [setting for setting in ALL if setting.model == model]
        assert {setting.dtype for setting in mine} == {"float32", "bfloat16"}
        assert {setting.scheduler for setting in mine} == {"sync", "async"}
        assert {setting.mode for setting in mine} == {"fused", "sequential"}
    assert {(s.scheduler, s.mode) for s in ALL if s.runner == "v1"} == {
        (scheduler, mode) for scheduler in ("sync", "async") for mode in ("fused", "sequential")
    }
    assert {setting.scheduler for setting in ALL if setting.runner == "v2"} == {"sync", "async"}
    assert {setting.order for setting in ALL} == {"fcfs", "priority"}
    assert {setting.worker for setting in ALL} == {"ours", "stock"}
    shared = [setting for setting in ALL if setting.threshold]
    assert {setting.order for setting in shared} == {"priority"}
    assert {setting.scheduler for setting in shared} == {"sync", "async"}


def test_stock_runs_beside_where_a_steps_work_may_be_withdrawn() -> None:
    assert LLAMA.beside is None
    shared = Setting("tiny-llama", "float32", order="priority", threshold=32)
    stock = shared.beside
    assert stock is not None
    assert (stock.plugin, stock.threshold, stock.order, stock.beside) == (False, 32, "priority", None)
    assert stock.name == f"{shared.name}, vLLM alone"
    assert withdrawal() in drawn(shared, 1, 1)
    assert withdrawal() not in drawn(LLAMA, 20, 1)


def test_flags_pick_among_the_settings() -> None:
    assert choose() == list(ALL)
    assert choose("tiny-moe") == [setting for setting in ALL if setting.model == "tiny-moe"]
    assert {s.runner for s in choose(runner="v2", dtype=None)} == {"v2"}
    mine = choose("/models/mine", mode="fused")
    assert {setting.model for setting in mine} == {"/models/mine"}
    assert {setting.mode for setting in mine} == {"fused"}
    with pytest.raises(ConfigError, match="no setting of --paths all has model tiny-moe, runner v2"):
        choose("tiny-moe", runner="v2", mode=None)


@given(st.integers(1, 2000))
@example(21)
def test_all_patterns_are_spread_and_interpreted_kernels_get_fewer(patterns: int) -> None:
    counts = spread(patterns, ALL)
    assert sum(counts) == max(patterns, len(ALL))
    assert min(counts) >= 1
    second = [count for count, setting in zip(counts, ALL, strict=True) if setting.runner == "v2"]
    twice = [count for count, setting in zip(counts, ALL, strict=True) if setting.beside]
    first = [count for count, setting in zip(counts, ALL, strict=True) if setting.runner == "v1" and not setting.beside]
    assert max(second) <= min(twice) + 1
    assert max(twice) <= min(first) + 1
    assert max(first) - min(first) <= 1


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_the_cases_of_a_setting_are_its_own_and_its_seeds(count: int, seed: int) -> None:
    mine = drawn(LLAMA, count, seed)
    assert mine == drawn(LLAMA, count, seed)
    assert all(isinstance(case, Case) for case in mine)
    assert len(mine) >= count
    longer = drawn(LLAMA, count + 1, seed)
    assert longer[: len(mine)] == mine
    if count > 10:
        assert mine[5:] != drawn(Setting("tiny-moe", "float32"), count, seed)[5:]
        assert mine[5:] != drawn(LLAMA, count, seed + 1)[5:]


def test_a_path_that_nobody_walked_is_named() -> None:
    walked = Finding(LLAMA, 1, Outcome(paths=dict.fromkeys(REQUIRED, 1)))
    assert not_walked([walked, Finding(LLAMA, 1)]) == []
    del walked.outcome.paths["abort"]
    assert not_walked([walked]) == ["abort"]
    assert not_walked([Finding(Setting("tiny-llama", "float32", runner="v2"), 1)]) == []
    shared = Finding(Setting("tiny-llama", "float32", order="priority", threshold=32), 1)
    assert not_walked([walked, shared]) == ["abort", *REQUIRED_SHARED]
