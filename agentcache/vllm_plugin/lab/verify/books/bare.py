"""A scheduler without an engine: vLLM's own classes, or ours over them, built from a configuration alone."""

import copy
import json
import random
from functools import cache
from typing import Any

from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.lab.verify.books.device import Group
from agentcache.vllm_plugin.lab.verify.books.worlds import BLOCK_SIZE, World
from agentcache.vllm_plugin.launch.tiny_models import model_dir

MAX_LEN = 64
NGRAMS = {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3}


@cache
def configured(flags: tuple[str, ...], drafts: int) -> tuple[Any, Any]:
    """What is dear to build: a configuration of vLLM's, and its manager of structured outputs, which nobody uses."""
    compat.init_none_hash(compat.sha256)
    parser = compat.EngineArgs.add_cli_args(compat.argument_parser())
    given = ["--dtype", "float32", "--max-model-len", str(MAX_LEN), "--max-num-seqs", "6", "--enforce-eager"]
    batch = ["--max-num-batched-tokens", str(MAX_LEN), "--skip-tokenizer-init"]
    if drafts:
        batch += ["--speculative-config", json.dumps({**NGRAMS, "num_speculative_tokens": drafts})]
    args = parser.parse_args(["--model", model_dir("tiny-llama"), *given, *batch, *flags])
    config = compat.EngineArgs.from_cli_args(args).create_engine_config()
    return config, compat.StructuredOutputManager(config)


def groups(world: World) -> list[Group]:
    """What the device has to know of a world's KV groups. Where context is sharded, a block is one of each rank."""
    ranks = configured(world.flags, world.drafts)[0].parallel_config.decode_context_parallel_size
    return [_group(ranks, *name.split()) for name in world.groups]


def _group(ranks: int, kind: str, tokens: str = "0") -> Group:
    match kind:
        case "window":
            return Group(BLOCK_SIZE, window=int(tokens))
        case "chunk":
            return Group(BLOCK_SIZE, chunk=int(tokens))
        case "state":
            return Group(BLOCK_SIZE, state=True)
        case _:
            return Group(BLOCK_SIZE * ranks)


def build(world: World) -> Any:
    """A scheduler for a world; one without requests, whatever was built before."""
    from agentcache.vllm_plugin.scheduler import AgentCacheAsyncScheduler, AgentCacheScheduler

    template, structured = configured(world.flags, world.drafts)
    config = copy.copy(template)
    for part in ("scheduler_config", "cache_config", "parallel_config"):
        setattr(config, part, copy.copy(getattr(template, part)))
    config.cache_config.block_size = BLOCK_SIZE
    config.cache_config.num_gpu_blocks = world.pool + 1  # one is vLLM's null block
    config.cache_config.mamba_cache_mode = "align" if "state" in world.groups else "none"
    config.scheduler_config.policy = world.order
    config.scheduler_config.async_scheduling = world.asynchronous
    config.scheduler_config.scheduler_reserve_full_isl = world.whole
    config.parallel_config.worker_cls = "agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker"
    options = {
        "policy": world.policy,
        "admission": world.admission,
        "mode": world.mode,
        "max_segments": world.segments,
        "level": world.level or None,
        "host_memory": (world.host + 0.5) * _page_bytes() / 2**30 if world.host else None,
        "host_policy": world.policy,
    }
    config.additional_config = {"agentcache": options}
    if world.stock:
        stock = compat.AsyncScheduler if world.asynchronous else compat.Scheduler
    else:
        stock = AgentCacheAsyncScheduler if world.asynchronous else AgentCacheScheduler
    size = max(group.block_size for group in groups(world))
    scheduler = stock(
        vllm_config=config,
        kv_cache_config=compat.KVCacheConfig(world.pool + 1, [], _specs(world)),
        structured_output_manager=structured,
        block_size=size,
        hash_block_size=size,
        log_stats=False,
    )
    if host := getattr(scheduler, "agentcache", None):
        host._clock = _Clock()
    return scheduler


class _Clock:
    """Half a second passes whenever somebody looks: the same in every run."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 0.5
        return self._now


def _specs(world: World) -> list[Any]:
    return [
        compat.KVCacheGroupSpec([f"layer {number}"], _spec(*name.split())) for number, name in enumerate(world.groups)
    ]


def _page_bytes() -> int:
    return int(_spec("full").page_size_bytes)


def _spec(kind: str, tokens: str = "0") -> Any:
    dtype = configured((), 0)[0].model_config.dtype
    shape = {"block_size": BLOCK_SIZE, "num_kv_heads": 1, "head_size": 8, "dtype": dtype}
    match kind:
        case "window":
            return compat.SlidingWindowSpec(**shape, sliding_window=int(tokens))
        case "chunk":
            return compat.ChunkedLocalAttentionSpec(**shape, attention_chunk_size=int(tokens))
        case "state":
            return compat.MambaSpec(BLOCK_SIZE, shapes=((4,),), dtypes=(dtype,), mamba_cache_mode="align")
        case "mla":
            return compat.MLAAttentionSpec(**shape)
        case _:
            return compat.FullAttentionSpec(**shape)


def request(
    name: str,
    prompt: list[int],
    answer: int,
    salt: str | None,
    urgency: int,
    job: str | None,
    hash_block_size: int = BLOCK_SIZE,
) -> Any:
    return compat.Request(
        name,
        prompt,
        compat.SamplingParams(max_tokens=answer, ignore_eos=True, extra_args={"job_id": job} if job else None),
        None,
        arrival_time=float(int(name)),
        cache_salt=salt,
        priority=urgency,
        block_hasher=compat.get_request_block_hasher(hash_block_size, compat.sha256),
    )


@cache
def contexts(count: int) -> list[list[int]]:
    """Three streams, two of which begin alike; each context is a beginning of one, as turns of one agent are."""
    rng = random.Random(1)
    begin = [rng.randrange(3, 500) for _ in range(2 * BLOCK_SIZE + 1)]
    streams = [[rng.randrange(3, 500) for _ in range(MAX_LEN)] for _ in range(3)]
    streams[0], streams[1] = begin + streams[0], begin + streams[1]
    lengths = (3, 8, 13, 16, 19, 21, 22, 24, 26)
    return [streams[number % 3][: lengths[number % len(lengths)]] for number in range(count)]
