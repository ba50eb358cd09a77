"""Times steps of chosen shapes on a live engine: what is to be missing is evicted, then the prompt is asked again."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from agentcache.cost import CostProfile
from agentcache.errors import EngineError
from agentcache.files import cpu_model
from agentcache.model import Event, StepTimed
from agentcache.vllm_plugin.compat import caches_of
from agentcache.vllm_plugin.copies.orders import Orders
from agentcache.vllm_plugin.lab.look_inside import LookInside
from agentcache.vllm_plugin.lab.profiling.grid import DECODES, Phase, Shape
from agentcache.vllm_plugin.launch.command_line import on_cpu, plugin_args
from agentcache.vllm_plugin.steps.prices import model_name

LEAST_TOKEN = 3  # below are special tokens
WARM_UP = 2
COPIED_BLOCKS, COPIES = 64, 5
"""Blocks of one copy from host memory, and how often it is made."""


class Subject:
    """One in-process engine with AgentCache on, and one long document that it holds.

    Raises `ConfigError` where the engine's configuration cannot be used, `EngineError` when a step is not timed.
    """

    def __init__(
        self, model: str, dtype: str, block_size: int, max_len: int, chunk: int, vocab_size: int, seed: int
    ) -> None:
        from vllm import EngineArgs, LLMEngine

        slots = max(count for count, _ in DECODES)
        room = max_len + max(count * (context + 1024) for count, context in DECODES)
        self.engine: Any = LLMEngine.from_engine_args(
            EngineArgs(
                model,
                dtype=dtype,
                seed=seed,
                max_model_len=max_len + 1,
                block_size=block_size,
                num_gpu_blocks_override=2 * room // block_size if on_cpu() else None,
                max_num_batched_tokens=chunk + slots,
                max_num_seqs=slots + 1,
                enforce_eager=on_cpu(),
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                **plugin_args({"policy": "lru-holes"}),
            )
        )
        self.view = LookInside(self.engine)
        self.view.listen(self._hear)
        self.view.scheduler.pacer.idle_sample = 1
        self.block_size = block_size
        self.disturbance = 1.0
        self._rng = random.Random(seed)
        self._vocab_size = vocab_size
        self._timed: list[StepTimed] = []
        self._asked = 0
        self._document = self._tokens(max_len)
        self._ask(self._document, 1)
        self._drain()
        pool = self.view.pool
        self._hashes = {
            block.block_hash_num_tokens // block_size - 1: block.block_hash
            for block in pool.blocks
            if block.block_hash is not None
        }

    def measure(self, phases: list[Phase], repeats: int, advance: Callable[[], None]) -> list[StepTimed]:
        """One step for each shape of each phase, in random order: the shortest of its repeats.

        What else runs on a machine can only make a step longer. `disturbance` is the median over the shapes of the
        longest repeat over the shortest.
        """
        steps, spreads = [], []
        for phase in phases:
            with self._decoding(phase.decodes, phase.context):
                for shape in phase.shapes[:WARM_UP]:
                    self._time(shape)
                seen: list[list[StepTimed]] = [[] for _ in phase.shapes]
                for _ in range(repeats):
                    for number in self._rng.sample(range(len(seen)), len(seen)):
                        seen[number].append(self._time(phase.shapes[number]))
                        advance()
            for repeated in seen:
                repeated.sort(key=lambda step: step.seconds)
                steps.append(repeated[0])
                spreads.append(repeated[-1].seconds / repeated[0].seconds)
        self.disturbance = median(spreads)
        return self._rng.sample(steps, len(steps))

    def copy_bytes_per_s(self) -> float:
        """How fast blocks come up from host memory, the fastest of a few times."""
        caches = caches_of(self.engine.vllm_config, self.view.scheduler.kv_cache_config)
        memory = self.view.worker._take_memory(caches, COPIED_BLOCKS)
        pairs = tuple((number + 1, number) for number in range(COPIED_BLOCKS))  # block 0 is vLLM's null block
        seconds: list[float] = []
        for number in range(WARM_UP + COPIES):
            memory.start(Orders(number, up=pairs))
            while not (reports := memory.finished()):
                time.sleep(0.001)
            seconds += [report.seconds for report in reports if not report.failed]
        self._drain()
        self.engine.reset_prefix_cache()  # what was copied over is not what its keys say
        moved: int = sum(cache[0].nbytes for cache in caches) * COPIED_BLOCKS
        return moved / min(seconds)

    def _time(self, shape: Shape) -> StepTimed:
        """Have exactly the shape's gaps missing, ask for the prompt that they end, and time the step."""
        if shape.gaps:
            lost = [i for start, end in shape.gaps for i in range(start // self.block_size, end // self.block_size)]
            table = self.view.pool.cached_block_hash_to_block
            self.view.evict(table.get_one_block(self._hashes[index]).block_id for index in lost)
            self._ask(self._document[: shape.gaps[-1][1]], 1)
        self._timed.clear()
        self.engine.step()
        if len(self._timed) != 1 or bool(self._timed[0].tokens) != bool(shape.gaps):
            raise EngineError(f"a step with gaps {shape.gaps} was seen as {self._timed}; nothing was fitted")
        return self._timed[0]

    @contextmanager
    def _decoding(self, count: int, context: int) -> Iterator[None]:
        names = [self._ask(self._tokens(context), None) for _ in range(count)]
        while any(request.is_prefill_chunk for request in self.view.scheduler.running) or self.view.scheduler.waiting:
            self.engine.step()
        yield
        self.engine.abort_request(names)
        self._drain()

    def _ask(self, tokens: list[int], answer_tokens: int | None) -> str:
        from vllm import SamplingParams

        self._asked += 1
        name = f"p{self._asked}"
        params = SamplingParams(temperature=0.0, max_tokens=answer_tokens or 10**6, ignore_eos=True, detokenize=False)
        self.engine.add_request(name, {"prompt_token_ids": tokens}, params)
        return name

    def _drain(self) -> None:
        while self.engine.has_unfinished_requests():
            self.engine.step()

    def _tokens(self, n: int) -> list[int]:
        return [self._rng.randrange(LEAST_TOKEN, self._vocab_size) for _ in range(n)]

    def _hear(self, event: Event, now: float) -> None:
        if isinstance(event, StepTimed):
            self._timed.append(event)


def described(subject: Subject) -> CostProfile:
    """What was measured, on what: a profile without coefficients yet."""
    config = subject.engine.vllm_config
    return CostProfile(
        c_lin=1.0,
        c_att=1.0,
        model=model_name(config.model_config.model),
        device=_device(),
        tp=config.parallel_config.tensor_parallel_size,
        kv_dtype=str(subject.view.runner.kv_cache_dtype).removeprefix("torch."),
        backend=subject.view.classes()["backend"].rpartition(".")[2],
        block_size=subject.block_size,
        chunk_tokens=config.scheduler_config.max_num_batched_tokens,
        max_len=config.model_config.max_model_len,
        copy_bytes_per_s=subject.copy_bytes_per_s(),
    )


def _device() -> str:
    """The name of what computes."""
    if not on_cpu():
        import torch

        return str(torch.cuda.get_device_name())
    return f"{cpu_model()}, {os.cpu_count()} cores"
