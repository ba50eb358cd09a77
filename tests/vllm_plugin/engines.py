"""A child process with one real engine in a setting of its own: a spec as JSON on stdin, what was seen on stdout.

`engine` are vLLM's engine arguments over the defaults here, and `ahead` for steps in flight; `options` are those of the
plug-in; `look` names the functions below that try the engine, one after the other, and compare it with what it answers
when nothing is cached.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer
from agentcache.vllm_plugin.launch.cpu_env import interpret_triton, prepare
from tests import forked

DTYPE = "float32"


def run(look: Sequence[str] = ("holes",), options: dict[str, Any] | None = None, **engine: Any) -> dict[str, Any]:
    """What these looks have seen of an engine in a process of its own; fails with the child's own words."""
    spec = {"look": look, "options": options or {"policy": "lru-holes"}, "engine": engine}
    seen: dict[str, Any] = forked.outcome(__file__, spec=spec, fresh=engine.get("attention_backend") == "CUSTOM")
    return seen


def poison(worker: Any, ids: list[int]) -> None:
    """Garbage that is a number in every format of a cache: 240 in 8 bits, 3e38 in more."""
    import torch

    for cache in worker.worker.model_runner.kv_caches:
        cache.view(torch.uint8)[ids] = 0x77


def bytes_of_a_value(worker: Any) -> int:
    return int(worker.worker.model_runner.kv_caches[0].element_size())


def schedule_ahead() -> None:
    """Have steps in flight on a CPU too, where vLLM would not: its executor is capable of it."""
    from vllm.platforms.cpu import CpuPlatform

    stock = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]

    def decide(cls: Any, config: Any) -> None:
        stock(cls, config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(decide)  # type: ignore[method-assign, assignment]


@dataclass
class Asked:
    """A prompt with what it takes to hand it in."""

    prompt: dict[str, Any]
    answer: int = 8
    priority: int = 0
    params: dict[str, Any] = field(default_factory=dict)


class Rig:
    """The engine: prompts are token ids, answers greedy."""

    def __init__(self, options: dict[str, Any], **engine: Any) -> None:
        from vllm import EngineArgs, LLMEngine

        from agentcache.vllm_plugin.launch.command_line import plugin_args
        from agentcache.vllm_plugin.launch.tiny_models import model_dir

        given: dict[str, Any] = {
            "dtype": DTYPE,
            "max_model_len": 1024,
            "block_size": 32,
            "num_gpu_blocks_override": 80,
            "max_num_batched_tokens": 256,
            "max_num_seqs": 8,
            "enforce_eager": True,
            "use_tqdm_on_load": False,
            **plugin_args(options, engine.pop("async", None)),
            **engine,
        }
        self.engine = LLMEngine.from_engine_args(EngineArgs(model_dir("tiny-llama"), **given))
        core = self.engine.engine_core.engine_core  # type: ignore[attr-defined]
        self.executor, self.scheduler = core.model_executor, core.scheduler
        self.in_flight: int = core.batch_queue_size
        self.manager = self.scheduler.kv_cache_manager
        self.size: int = self.scheduler.block_size
        self.heard: Counter[str] = Counter()
        self.scheduler.agentcache.listeners.append(self._hear)
        self._count = 0

    def _hear(self, event: Any, now: float) -> None:
        self.heard[type(event).__name__] += 1
        for name in ("cached", "after_hole", "holes", "loaded"):
            self.heard[name] += getattr(event, name, 0)
        if type(event).__name__ == "BlocksEvicted":
            self.heard["blocks evicted"] += len(event.keys)

    def submit(self, asked: Asked) -> str:
        from vllm import SamplingParams

        self._count += 1
        params = {"temperature": 0.0, "max_tokens": asked.answer, "ignore_eos": True, "logprobs": 2} | asked.params
        name = f"q{self._count}"
        prompt: Any = asked.prompt
        self.engine.add_request(name, prompt, SamplingParams(detokenize=False, **params), priority=asked.priority)
        return name

    def ask(self, *asked: Asked) -> list[list[GivenAnswer]]:
        """Run them together; the answers of each."""
        names, answers = [self.submit(one) for one in asked], {}
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    answers[output.request_id] = [GivenAnswer.of(choice) for choice in output.outputs]
        return [answers[name] for name in names]

    def cold(self, *asked: Asked) -> list[GivenAnswer]:
        """Each alone in an engine that remembers nothing."""
        answers = []
        for one in asked:
            assert self.engine.reset_prefix_cache()
            answers.append(self.ask(Asked(one.prompt, one.answer))[0][0])
        assert self.engine.reset_prefix_cache()
        return answers

    def evict(self, share: float, seed: int = 1) -> None:
        """Of the cached blocks that nobody holds, and overwrite what they held."""
        rng, pool = random.Random(seed), self.manager.block_pool
        cached = [block.block_id for block in pool.blocks if block.block_hash is not None and not block.ref_cnt]
        doomed = rng.sample(cached, round(share * len(cached)))
        assert 0 < len(doomed) < len(cached)
        pool.evict_blocks(set(doomed))
        self.executor.collective_rpc(poison, args=(doomed,))

    def compare(self, cold: Sequence[GivenAnswer], warm: Sequence[Sequence[GivenAnswer]]) -> dict[str, Any]:
        """How answers agree, and what the engine went through since the last time; every book must balance."""
        tally = AnswerTally(MARGINS[DTYPE])
        for expected, answers in zip(cold, warm, strict=True):
            for answer in answers:
                tally.compare(expected.first(len(answer.tokens)), answer)
        pool = self.manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
        assert not any(block.ref_cnt for block in pool.blocks[1:])
        pool.free_block_queue.check()
        heard, self.heard = self.heard, Counter()
        return asdict(tally) | dict(heard)


def tokens(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, 500) for _ in range(count)]


def plain(prompt: list[int], **more: Any) -> Asked:
    return Asked({"prompt_token_ids": prompt}, **more)


# What is tried


def holes(rig: Rig) -> dict[str, Any]:
    """Prompts of many blocks come again, together, when some of their blocks are gone."""
    long, answer = (7, 8) if rig.size > 32 else (10, 8) if rig.size == 32 else (5, 3)
    tails = (0, 1, rig.size - 1)
    asked = [plain(tokens(long * rig.size + tail, seed), answer=answer) for seed, tail in enumerate(tails)]
    cold = rig.cold(*asked)
    rig.ask(*asked)
    rig.heard.clear()
    warm = []
    for seed in range(3):
        rig.evict(0.5, seed)
        warm += rig.ask(*asked)
    return rig.compare(cold * 3, warm)


def few_tokens(rig: Rig) -> dict[str, Any]:
    """Steps of one to five tokens, which two rebuilds and an answer share."""
    asked = [plain(tokens(4 * rig.size + tail, seed)) for seed, tail in ((11, 1), (12, 7))]
    short = plain([5, 6, 7])
    cold = rig.cold(*asked, short)
    rig.ask(*asked)
    rig.heard.clear()
    usual = rig.scheduler.max_num_scheduled_tokens
    warm = []
    for budget in (1, 2, 3, 5):
        rig.evict(0.5, budget)
        rig.scheduler.max_num_scheduled_tokens = budget
        warm += rig.ask(short, *asked)
    rig.scheduler.max_num_scheduled_tokens = usual
    return rig.compare([cold[2], *cold[:2]] * 4, warm)


def crowd(rig: Rig) -> dict[str, Any]:
    """Two hundred requests at once, of many jobs and urgencies, in a pool that holds two of the longest."""
    rng = random.Random(5)
    shared = [tokens(rng.randrange(64, 400), seed) for seed in range(20, 26)]
    distinct = [plain(rng.choice(shared) + tokens(rng.randrange(1, 120), 100 + n), answer=8) for n in range(40)]
    cold = rig.cold(*distinct)
    rig.heard.clear()
    chosen = [rng.randrange(len(distinct)) for _ in range(200)]
    asked = [Asked(distinct[n].prompt, rng.randrange(1, 9), rng.choice((0, 0, 1, 2))) for n in chosen]
    return rig.compare([cold[n] for n in chosen], rig.ask(*asked))


def too_long(rig: Rig) -> dict[str, Any]:
    """A prompt that the engine cannot hold fails alone; what runs beside it is answered."""
    fine = plain(tokens(100, 31))
    cold = rig.cold(fine)
    name, said = rig.submit(fine), []
    most = rig.scheduler.max_model_len
    for count in (most, 2 * most):
        try:
            rig.submit(plain(tokens(count, 32)))
        except Exception as error:
            said.append(str(error))
    answers = []
    while rig.engine.has_unfinished_requests():
        answers += [output for output in rig.engine.step() if output.finished]
    assert [answer.request_id for answer in answers] == [name]
    return rig.compare(cold, [[GivenAnswer.of(answers[0].outputs[0])]]) | {"said": said}


def embeds(rig: Rig) -> dict[str, Any]:
    """Prompts that are embeddings, two of them with one beginning, beside one of tokens that is rebuilt over holes."""
    import torch

    hidden = rig.scheduler.vllm_config.model_config.get_hidden_size()
    drawn = torch.Generator().manual_seed(1)
    first, second, other = (torch.randn(count * rig.size + 5, hidden, generator=drawn) for count in (5, 4, 9))
    prompts = (torch.cat([first, second]), first, other)
    asked = [plain(tokens(8 * rig.size, 71)), *(Asked({"prompt_embeds": prompt}) for prompt in prompts)]
    cold = rig.cold(*asked)
    rig.ask(*asked)
    rig.heard.clear()
    warm = []
    for seed in range(3):
        rig.evict(0.5, seed)
        warm += rig.ask(*asked)
    seen = rig.compare(cold * 3, warm)
    return seen | {"answers": len({answer.tokens for answer in cold})}


def below(rig: Rig) -> dict[str, Any]:
    """Contexts that grow from turn to turn, and together are several pools, two at a time."""
    contexts = [tokens(9 * rig.size + 7 * seed, 81 + seed) for seed in range(6)]
    rounds = [[plain(context + tokens(40 * turn, 91)) for context in contexts] for turn in range(3)]
    cold = [rig.cold(*asked) for asked in rounds]
    rig.heard.clear()
    warm = [rig.ask(*asked[at : at + 2]) for asked in rounds for at in range(0, len(asked), 2)]
    porter = rig.scheduler.porter
    porter.check()
    rig.scheduler.agentcache.residency.check()
    places = rig.executor.collective_rpc(places_below)[0]
    seen = rig.compare([answer for answers in cold for answer in answers], [answer for two in warm for answer in two])
    values = rig.scheduler.agentcache.meter.values
    counted = {way: values.get(("agentcache_tier_blocks_total", way, "copied"), 0) for way in ("down", "up")}
    return seen | counted | {"places": places, "held": porter.tier.held_blocks, "capacity": porter.tier.capacity_blocks}


def places_below(worker: Any) -> int:
    return len(worker.worker._memory.held[0])


def left_out(rig: Rig) -> dict[str, Any]:
    """The same, and nothing is copied up."""
    rig.executor.collective_rpc(nothing_up)
    return below(rig)


def nothing_up(worker: Any) -> None:
    worker.worker._memory.copy_up = lambda *args, **kwargs: None


def failing(rig: Rig) -> dict[str, Any]:
    """The same, and of all that is to be copied up a half is there when the copy fails."""
    rig.executor.collective_rpc(half_up)
    return below(rig)


def half_up(worker: Any) -> None:
    memory = worker.worker._memory
    up = memory.copy_up

    def half(orders: Any) -> None:
        up(replace(orders, up=orders.up[: len(orders.up) // 2]))
        raise RuntimeError("of the test's own")

    memory.copy_up = half


LOOKS = {look.__name__: look for look in (holes, few_tokens, crowd, too_long, embeds, below, left_out, failing)}


def main() -> dict[str, Any]:
    spec = json.loads(sys.stdin.read())
    prepare(threads=1)
    if spec["engine"].get("attention_backend") == "CUSTOM":
        interpret_triton()
    if spec["engine"].pop("ahead", False):
        schedule_ahead()
    rig = Rig(spec["options"], **spec["engine"])
    config = rig.scheduler.vllm_config
    seen: dict[str, Any] = {
        "scheduler": type(rig.scheduler).__name__,
        "executor": type(rig.executor).__name__,
        "workers": config.parallel_config.world_size,
        "block size": rig.size,
        "cache": config.cache_config.cache_dtype,
        "bytes of a value": rig.executor.collective_rpc(bytes_of_a_value)[0],
        "async": config.scheduler_config.async_scheduling,
        "in flight": rig.in_flight,
        "step segments": getattr(rig.manager, "step_segments", 0),
    }
    return seen | {look: LOOKS[look](rig) for look in spec["look"]}


if __name__ == "__main__":
    print(json.dumps(main()))
