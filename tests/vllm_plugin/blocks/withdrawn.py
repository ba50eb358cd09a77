"""A child process in which a request is preempted in the step that it was scheduled in: `stock` or `ours`, JSON out.

A long prompt of little urgency is prefilled in chunks beside a short, urgent one that decodes. The short one's next
block is taken from the long one, whose chunk of that very step has its keys already and will never be computed.
"""

import json
import random
import sys
from dataclasses import asdict
from typing import Any

from agentcache.vllm_plugin.lab.verify.compare import AnswerTally, GivenAnswer
from agentcache.vllm_plugin.launch.cpu_env import prepare

BLOCK, POOL = 32, 17
LONG, ANSWER = 530, 14
"""With the short prompt's second block the pool is full, just when the long one has been given sixteen."""


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
            max_model_len=POOL * BLOCK,
            block_size=BLOCK,
            num_gpu_blocks_override=POOL + 1,  # one is vLLM's null block
            max_num_batched_tokens=128,
            max_num_seqs=4,
            enforce_eager=True,
            use_tqdm_on_load=False,
            scheduling_policy="priority",
            long_prefill_token_threshold=32,
            **(plugin_args({"policy": "lru-holes"}) if ours else {}),
        )
    )
    view = LookInside(engine)
    scheduler = view.scheduler
    table = scheduler.kv_cache_manager.coordinator.single_type_managers[0]
    cut: list[tuple[int, int]] = []
    stock_preempt = scheduler._preempt_request

    def preempt(request: Any, *args: Any, **kwargs: Any) -> None:
        keyed = BLOCK * sum(block.block_hash is not None for block in table.req_to_blocks[request.request_id])
        cut.append((request.num_computed_tokens, keyed))
        stock_preempt(request, *args, **kwargs)

    scheduler._preempt_request = preempt
    rng = random.Random(7)
    long, *shorts = ([rng.randrange(3, 400) for _ in range(count)] for count in (LONG, 20, 28))
    params = SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True, logprobs=2, detokenize=False)

    def run(steps_before: int = 0, **asked: tuple[list[int], int]) -> dict[str, GivenAnswer]:
        answers = {}
        for name, (prompt, priority) in asked.items():
            engine.add_request(name, {"prompt_token_ids": prompt}, params, priority=priority)
            for _ in range(steps_before):
                engine.step()
        while engine.has_unfinished_requests():
            answers |= {out.request_id: GivenAnswer.of(out.outputs[0]) for out in engine.step() if out.finished}
        return answers

    seen: dict[str, Any] = {"active": view.active}
    for short, threshold, budget in zip(shorts, (32, 64), (64, 128), strict=True):
        scheduler.scheduler_config.long_prefill_token_threshold = threshold
        scheduler.max_num_scheduled_tokens = budget
        cold: dict[str, GivenAnswer] = {}
        for name, prompt in (("long", long), ("short", short)):
            engine.reset_prefix_cache()
            cold |= run(**{name: (prompt, 0)})
        engine.reset_prefix_cache()
        cut.clear()
        warm = run(1, long=(long, 10), short=(short, 0))
        tally = AnswerTally(1e-3)
        for name, answer in warm.items():
            tally.compare(cold[name], answer)
        view.check()
        seen[f"threshold {threshold}"] = {"cut": cut[:], **asdict(tally)}
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1] == "ours")))
