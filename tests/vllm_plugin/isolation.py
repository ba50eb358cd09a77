"""A child process that tries to make one real engine leak, forget or mix up what stands behind holes: JSON on stdout.

A prompt is computed once, some of its blocks are evicted, and it comes again, in one way after another. `cached` and
`after_hole` are tokens that a turn was given; `same` says whether its tokens and log-probabilities are the first ones.
"""

import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from agentcache.vllm_plugin.launch.cpu_env import prepare

BLOCK = 32
PROMPT = [5 + i * 7 % 400 for i in range(10 * BLOCK + 9)]
FRONT, SPOTS = [0, 1], [0, 1, 4, 7]  # blocks to evict: holes of a prompt
SEED = {"one": 1, "two": 2}


def main() -> dict[str, Any]:
    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.lora.request import LoRARequest

    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("tiny-llama"),
            dtype="float32",
            max_model_len=512,
            block_size=BLOCK,
            num_gpu_blocks_override=80,
            max_num_batched_tokens=64,  # a rebuild takes several steps
            max_num_seqs=4,
            enforce_eager=True,
            use_tqdm_on_load=False,
            enable_lora=True,
            max_lora_rank=8,
            max_loras=2,
            **plugin_args({"policy": "lru-holes"}),
        )
    )
    view = LookInside(engine)
    assert view.host
    manager = view.scheduler.kv_cache_manager
    turns: list[Any] = []
    view.listen(lambda event, now: turns.append(event) if type(event).__name__ == "TurnScheduled" else None)
    folder = Path(tempfile.mkdtemp())
    loras = {name: LoRARequest(name, seed, adapter(folder / name, seed)) for name, seed in SEED.items()}
    count = iter(range(1000))
    keys: dict[Any, list[int]] = {}

    def submit(salt: str | None = None, lora: str | None = None, **params: Any) -> str:
        prompt: Any = {"prompt_token_ids": PROMPT} | ({"cache_salt": salt} if salt else {})
        name = f"{next(count)}"
        asked = SamplingParams(temperature=0.0, max_tokens=4, logprobs=0, detokenize=False, ignore_eos=True, **params)
        engine.add_request(name, prompt, asked, lora_request=loras.get(lora or ""))
        return name

    def finish() -> tuple[list[int], list[float]]:
        done: Any = None
        while engine.has_unfinished_requests():
            for output in engine.step():
                done = output
        choice = done.outputs[0]
        return list(choice.token_ids), [next(iter(entry.values())).logprob for entry in choice.logprobs]

    def ask(salt: str | None = None, lora: str | None = None, **params: Any) -> dict[str, Any]:
        turns.clear()
        before = set(view.cached_block_ids())
        submit(salt, lora, **params)
        tokens, logprobs = finish()
        new = [i for i in view.cached_block_ids() if i not in before]
        keys.setdefault((salt, lora), sorted(new, key=allocated.__getitem__))
        first = answers.setdefault(lora, (tokens, logprobs))
        close = all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(logprobs, first[1], strict=True))
        view.check()
        (turn,) = turns
        given = {"cached": turn.cached, "after_hole": turn.after_hole, "holes": turn.holes}
        return given | {"same": tokens == first[0] and close}

    answers: dict[str | None, Any] = {}
    allocated: dict[int, int] = {}  # block -> when: those of a prompt in their order
    clock = iter(range(10**6))
    view.on_allocate(lambda ids: allocated.update({block_id: next(clock) for block_id in ids}))
    counted: Counter[str] = Counter()
    count_on = view.host.meter.count

    def counting(name: str, *labels: str, by: float = 1) -> None:
        if name == "agentcache_stock_turns_total":
            counted[labels[0]] += int(by)
        count_on(name, *labels, by=by)

    view.host.meter.count = counting  # type: ignore[method-assign]

    def punch(whose: tuple[str | None, str | None], blocks: list[int]) -> None:
        """Evict these blocks of the prompt as it was first computed for somebody."""
        ids = keys.pop(whose)
        assert len(ids) >= 10
        view.evict(ids[i] for i in blocks)
        left[whose] = [id for i, id in enumerate(ids) if i not in blocks]

    left: dict[Any, list[int]] = {}
    seen: dict[str, Any] = {"mode": "fused" if manager.step_segments > 1 else "sequential"}

    # Who shares no salt shares nothing, with holes or without; what another has left is not even read.
    seen["a first"] = ask("a")
    punch(("a", None), SPOTS)
    kept = [[cache[i].clone() for i in left["a", None]] for cache in view.runner.kv_caches]
    view.poison(left["a", None])
    seen["b after a, poisoned"] = ask("b")
    seen["nobody after a, poisoned"] = ask()
    for cache, blocks in zip(view.runner.kv_caches, kept, strict=True):
        for i, content in zip(left["a", None], blocks, strict=True):
            cache[i] = content
    seen["a again"] = ask("a")

    # Adapters likewise; the adapters do change the answer.
    seen["one first"] = ask(lora="one")
    punch((None, "one"), SPOTS)
    seen["two after one"] = ask(lora="two")
    seen["nobody after one"] = ask()
    seen["one again"] = ask(lora="one")
    seen["answers differ"] = len({str(answers[name]) for name in (None, "one", "two")}) == 3

    # Cache salts meet adapters.
    seen["a with two"] = ask("a", "two")

    # Requests that get stock caching, and are counted.
    punch((None, None), FRONT)
    seen["prompt logprobs"] = ask(prompt_logprobs=0, skip_reading_prefix_cache=False)
    seen["skips cache"] = ask(skip_reading_prefix_cache=True)
    seen["counted"] = counted

    def renew() -> None:
        assert engine.reset_prefix_cache()
        keys.clear()
        ask()

    # A reset while holes are there, first idle and then in the middle of a rebuild.
    renew()
    punch((None, None), SPOTS)
    seen["reset when idle"] = engine.reset_prefix_cache()
    seen["resident after a reset"] = view.cached_block_ids()
    seen["after a reset"] = ask()
    renew()
    punch((None, None), SPOTS)
    submit()
    engine.step()
    seen["holes when reset"] = len(manager.runs)
    seen["reset under load"] = engine.reset_prefix_cache()
    seen["forced reset"] = engine.reset_prefix_cache(reset_running_requests=True)
    tokens, _ = finish()
    seen["same after a forced reset"] = tokens == answers[None][0]
    view.check()

    # Sleep and wake: idle, and in the middle of a rebuild. A CPU has no memory to give back, but all else happens.
    renew()
    punch((None, None), SPOTS)
    engine.sleep(1)
    engine.wake_up()
    seen["resident after sleep"] = view.cached_block_ids()
    seen["after sleep"] = ask()
    renew()
    punch((None, None), SPOTS)
    submit()
    engine.step()
    engine.sleep(0, "keep")
    seen["holes when asleep"] = len(manager.runs)
    engine.wake_up(["scheduling"])
    tokens, _ = finish()
    seen["same after sleep"] = tokens == answers[None][0]
    view.check()

    # Islands not worth a segment, and more of them than a request may have.
    renew()
    punch((None, None), SPOTS)
    manager.max_segments = 3
    seen["at most 3 segments"] = ask()
    manager.max_segments = 8
    renew()
    punch((None, None), SPOTS)
    manager.segment_s = manager.seconds(2 * BLOCK, 4 * BLOCK) * 1.01
    seen["islands too small"] = ask()
    manager.segment_s = math.inf
    renew()
    punch((None, None), SPOTS)
    seen["no island worth it"] = ask()
    return seen


def adapter(folder: Path, seed: int) -> str:
    """A LoRA adapter with random weights, as its authors would save it: the folder's path."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(4):
        for name, rows in (("q_proj", 128), ("v_proj", 64)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(8, 128, generator=random) * 0.2
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 8, generator=random) * 0.2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


if __name__ == "__main__":
    print(json.dumps(main()))
