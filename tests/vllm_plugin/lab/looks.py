"""A child process that looks into one real engine, stock or ours: `stock` or `ours` as its argument, JSON on stdout."""

import json
import math
import sys
from typing import Any

from agentcache.errors import CheckFailed
from agentcache.vllm_plugin.launch.cpu_env import prepare

PROMPT = [5 + i % 400 for i in range(100)]  # three whole blocks of 32, and a tail


def main(ours: bool) -> dict[str, Any]:
    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine, SamplingParams

    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("tiny-llama"),
            dtype="float32",
            max_model_len=256,
            block_size=32,
            num_gpu_blocks_override=20,
            max_num_seqs=2,
            enforce_eager=True,
            use_tqdm_on_load=False,
            **(plugin_args({"policy": "lru-holes"}) if ours else {}),
        )
    )
    view = LookInside(engine)
    events: list[str] = []
    view.listen(lambda event, now: events.append(type(event).__name__))

    def ask(name: str) -> tuple[int, float]:
        """Cached tokens of the prompt, and the log-probability of the token after it."""
        params = SamplingParams(temperature=0.0, max_tokens=2, logprobs=0, detokenize=False)
        engine.add_request(name, {"prompt_token_ids": PROMPT}, params)
        done: Any = None
        while engine.has_unfinished_requests():
            for output in engine.step():
                done = output
            if engine.has_unfinished_requests():
                seen["check while running"] = refused()
        (entry,) = done.outputs[0].logprobs[0].values()
        return done.num_cached_tokens, entry.logprob

    def refused() -> str | None:
        try:
            view.check()
        except CheckFailed as error:
            return error.message
        return None

    seen: dict[str, Any] = {"classes": view.classes(), "active": view.active, "usable": view.usable_blocks}
    seen["free when new"], seen["cached when new"] = view.free_blocks, view.cached_block_ids()
    _, first = ask("first")
    seen["free when idle"] = view.free_blocks
    cached = view.cached_block_ids()
    seen["cached"] = len(cached)
    seen["again"] = ask("again")[0]

    kept = [cache.clone() for cache in view.runner.kv_caches]
    view.poison(iter(cached[:1]), math.inf)  # an iterator: every layer must get all of it
    seen["layers poisoned"] = [bool(cache[cached[0]].isinf().all()) for cache in view.runner.kv_caches]
    view.poison(cached[:1])
    others = [i for i in range(20) if i != cached[0]]
    seen["others untouched"] = all(
        cache[others].equal(old[others]) for cache, old in zip(view.runner.kv_caches, kept, strict=True)
    )
    seen["poison is read"] = math.isnan(ask("poisoned")[1])

    view.evict(cached)
    seen["cached when evicted"] = view.cached_block_ids()
    seen["free when evicted"] = view.free_blocks
    view.poison(range(1, 20), 0.0)
    seen["after eviction"], again = ask("evicted")
    seen["same answer"] = again == first
    seen["check"] = refused()

    view.pool.blocks[1].ref_cnt += 1
    seen["check of a wrong count"] = refused()
    view.pool.blocks[1].ref_cnt -= 1
    seen["events"] = sorted(set(events))
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1] == "ours")))
