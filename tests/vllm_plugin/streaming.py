"""A child process with one engine, ours or stock, to which prompts are streamed: what it answered, on stdout.

Each session hands its prompt in in pieces and is answered after each; whole prompts that share its beginnings run
beside it, in a pool so small that blocks are evicted.
"""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from typing import Any

from agentcache.vllm_plugin.launch.command_line import plugin_args
from agentcache.vllm_plugin.launch.cpu_env import prepare

SESSIONS, PIECES, PIECE, ANSWER = 3, 3, 96, 4


async def talk(ours: bool) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.engine.protocol import StreamingInput
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    plugin: dict[str, Any] = plugin_args({"policy": "lru-holes"}) if ours else {}
    args = AsyncEngineArgs(
        model_dir("tiny-llama"),
        dtype="float32",
        max_model_len=1024,
        block_size=32,
        num_gpu_blocks_override=40,
        max_num_batched_tokens=256,
        max_num_seqs=8,
        enforce_eager=True,
        **plugin,
    )
    engine = AsyncLLM.from_engine_args(args)
    draw = random.Random(5)
    texts = [[draw.randrange(100, 400) for _ in range(PIECES * PIECE)] for _ in range(SESSIONS)]
    params = SamplingParams(
        temperature=0.0, max_tokens=ANSWER, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )

    async def answer(name: str, prompt: Any) -> list[int]:
        said: list[int] = []
        async for output in engine.generate(prompt, params, name):
            said += output.outputs[0].token_ids
            cached[name] = output.num_cached_tokens or 0
            for _ in output.outputs[0].token_ids if name in heard else ():  # several, where we were slow to hear them
                heard[name].release()
        return said

    heard: dict[str, asyncio.Semaphore] = {}
    cached: dict[str, int] = {}

    async def pieces(name: str, text: list[int]) -> AsyncIterator[StreamingInput]:
        for start in range(0, len(text), PIECE):
            yield StreamingInput({"prompt_token_ids": text[start : start + PIECE]})
            for _ in range(ANSWER):  # an agent that speaks when it was answered
                await heard[name].acquire()

    said: list[Any] = []
    for turn in range(3):
        names = [f"s{turn}.{number}" for number in range(SESSIONS)]
        heard |= {name: asyncio.Semaphore(0) for name in names}
        sessions = [answer(name, pieces(name, text)) for name, text in zip(names, texts, strict=True)]
        whole = [
            answer(f"w{turn}.{number}", {"prompt_token_ids": text[: 250 + 7 * turn]})
            for number, text in enumerate(texts)
        ]
        said.append(await asyncio.gather(*sessions, *whole))
    engine.shutdown()
    return {"said": said, "cached": sum(cached.values())}


if __name__ == "__main__":
    prepare()
    print(json.dumps(asyncio.run(talk(sys.argv[1] == "ours"))))
