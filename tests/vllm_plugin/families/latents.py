"""A child process that rebuilds holes between latents, for MLA on a CPU: what was seen, as JSON.

vLLM's own answers change there with the sizes of its steps. So one prompt at a time is computed in chunks of one size,
and the holes are whole chunks: each step of a rebuild is then one of the cold run, and answers are equal to the last
bit.
"""

import json
import random

from agentcache.model import TurnScheduled
from agentcache.vllm_plugin.launch.cpu_env import prepare
from tests.vllm_plugin.families.drive import Played, words
from tests.vllm_plugin.families.lifted import caching_of_latents
from tests.vllm_plugin.families.table import FAMILIES

CHUNK = 64
PROMPTS, ROUNDS, ANSWER = 4, 4, 6
GARBAGE = 1e4


def main() -> None:
    prepare(threads=1)
    caching_of_latents()
    played = Played(FAMILIES["deepseek-v3"], {"level": "holes", "mla_holes": True})
    view, rng = played.view, random.Random(1)
    view.scheduler.max_num_scheduled_tokens = CHUNK
    view.on_allocate(lambda ids: view.poison(ids, GARBAGE))
    heard: list[TurnScheduled] = []
    view.listen(lambda event, now: heard.append(event) if isinstance(event, TurnScheduled) else None)
    seen = {"answers": 0, "bit differences": 0, "holes": 0, "tokens after holes": 0}
    size = view.scheduler.block_size
    for _ in range(PROMPTS):
        prompt = words(rng, rng.randrange(5, 12) * CHUNK + rng.randrange(1, size))  # nothing of its end is ever cached
        cold = played.cold(prompt, ANSWER)
        for _ in range(ROUNDS):
            heard.clear()
            gone = {chunk for chunk in range(12) if rng.random() < 0.4}
            doomed = [
                number
                for number in view.cached_block_ids()
                if (view.pool.blocks[number].block_hash_num_tokens - 1) // CHUNK in gone
            ]
            view.evict(doomed)
            view.poison(doomed)
            answer, _ = played.alone(prompt, ANSWER)
            seen["answers"] += 1
            seen["bit differences"] += answer != cold
            seen["holes"] += sum(event.holes for event in heard)
            seen["tokens after holes"] += sum(event.after_hole for event in heard)
    view.poison(view.cached_block_ids(), 3.0)
    answer, _ = played.alone(prompt, ANSWER)
    view.check()
    outcome = {"seen": seen, "control": answer != cold, "groups": played.outcome()["groups"]}
    print(
        json.dumps(
            outcome | {"classes": view.classes(), "step segments": view.scheduler.kv_cache_manager.step_segments}
        )
    )


if __name__ == "__main__":
    main()
