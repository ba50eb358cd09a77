"""vLLM's own scheduler over a pool of any KV groups, without an engine: turns are taken, and nothing is computed."""

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.lab.verify.books import bare
from agentcache.vllm_plugin.scheduler import AgentCacheScheduler

MAX_LEN = 65536
PATIENT = "working-set:max_release_s=1e6,max_hold_s=1e6"


def full(block_size: int = 16) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=8, dtype=torch.float32)


def mla(block_size: int = 16) -> MLAAttentionSpec:
    return MLAAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=8, dtype=torch.float32)


def sliding(window: int, block_size: int = 16) -> SlidingWindowSpec:
    return SlidingWindowSpec(
        block_size=block_size, num_kv_heads=1, head_size=8, dtype=torch.float32, sliding_window=window
    )


def chunked(chunk: int, block_size: int = 16) -> ChunkedLocalAttentionSpec:
    return ChunkedLocalAttentionSpec(
        block_size=block_size, num_kv_heads=1, head_size=8, dtype=torch.float32, attention_chunk_size=chunk
    )


def states(block_size: int = 64, drafts: int = 0) -> MambaSpec:
    """Of Mamba, or of whatever else is linear."""
    return MambaSpec(
        block_size=block_size,
        shapes=((4,),),
        dtypes=(torch.float32,),
        mamba_cache_mode="align",
        num_speculative_blocks=drafts,
    )


class Pool:
    """A scheduler over `blocks` usable blocks of these groups; a step computes at most `step_tokens`.

    It is vLLM's own, or with `level` ours at that, with LRU's order and admission by working set.
    """

    def __init__(
        self,
        groups: Sequence[KVCacheSpec],
        blocks: int,
        retention: int | None = 0,
        step_tokens: int = 512,
        hash_block_size: int | None = None,
        level: str | None = None,
    ) -> None:
        template, structured = bare.configured((), 0)
        config = copy.copy(template)
        for part in ("scheduler_config", "cache_config", "model_config", "parallel_config"):
            setattr(config, part, copy.copy(getattr(template, part)))
        sizes = [group.block_size for group in groups]
        config.model_config.max_model_len = MAX_LEN
        config.scheduler_config.max_num_batched_tokens, config.scheduler_config.max_num_seqs = step_tokens, 64
        config.cache_config.block_size, config.cache_config.num_gpu_blocks = math.lcm(*sizes), blocks + 1
        config.cache_config.mamba_cache_mode = "align" if any(isinstance(one, MambaSpec) for one in groups) else "none"
        named = [compat.KVCacheGroupSpec([f"layer {number}"], group) for number, group in enumerate(groups)]
        self.config = compat.KVCacheConfig(blocks + 1, [], named, prefix_cache_retention_interval=retention)
        self.step_tokens = step_tokens
        kind = compat.Scheduler
        if level:
            kind = AgentCacheScheduler
            config.parallel_config.worker_cls = "agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker"
            config.additional_config = {"agentcache": {"policy": "lru", "admission": PATIENT, "level": level}}
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=self.config,
            structured_output_manager=structured,
            block_size=math.lcm(*sizes),
            hash_block_size=hash_block_size or math.gcd(*sizes),
            log_stats=False,
        )
        self.manager = self.scheduler.kv_cache_manager
        self.rng = random.Random(1)
        self._asked = 0

    @property
    def hash_block_size(self) -> int:
        return int(self.scheduler.hash_block_size)

    def tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(3, 500) for _ in range(count)]

    def request(self, prompt: Sequence[int], answer: int, **hints: Any) -> Any:
        self._asked += 1
        return compat.Request(
            str(self._asked),
            list(prompt),
            compat.SamplingParams(max_tokens=answer, ignore_eos=True, extra_args=hints),
            None,
            arrival_time=float(self._asked),
            block_hasher=compat.get_request_block_hasher(self.hash_block_size, compat.sha256),
        )

    def step(self) -> Any:
        """One step and its output, whatever it would be; returns what was scheduled."""
        output = self.scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        asked = [self.scheduler.requests[name] for name in names]
        sampled = [self.tokens(request.num_computed_tokens >= request.num_tokens) for request in asked]
        rows = {name: row for row, name in enumerate(names)}
        self.scheduler.update_from_output(output, compat.ModelRunnerOutput(names, rows, sampled))
        return output

    def turn(self, prompt: Sequence[int], answer: int, watch: Callable[[Any], None] = lambda request: None) -> Any:
        """A turn from its begin to its end; `watch` looks at it after each step but the last."""
        request = self.request(prompt, answer)
        self.scheduler.add_request(request)
        while True:
            output = self.step()
            if new := output.scheduled_new_reqs:
                request.cached = new[0].num_computed_tokens
            if request.is_finished():
                return request
            watch(request)
