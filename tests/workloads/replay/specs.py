"""A run as tests name it."""

from typing import Any

from msgspec import structs

from agentcache_workloads.replay.engines.queueing import STEP_TOKENS
from agentcache_workloads.replay.spec import RunSpec, Selection

_SPEC = RunSpec(
    trace="t",
    selection=Selection(),
    policy="lru",
    admission="fcfs",
    profile=None,
    mode="fused",
    seed=1,
    slots=1,
    time_scale=1.0,
    tokens_per_block=2,
    hints=True,
    model="m",
    vocab_size=512,
    dtype="float32",
    block_size=32,
    cache_blocks=8,
    max_batched_tokens=64,
    max_context_tokens=64,
)


def run_spec(**changes: Any) -> RunSpec:
    """A small run on two tokens a block, with these fields changed."""
    return structs.replace(_SPEC, **changes)


def sim_spec(policy: str, cache_blocks: int, block_size: int, **fields: Any) -> RunSpec:
    """A simulated run, on traces whose blocks have the pool's size unless said otherwise."""
    fields = {"tokens_per_block": block_size, "max_batched_tokens": STEP_TOKENS, **fields}
    return RunSpec(engine="sim", policy=policy, cache_blocks=cache_blocks, block_size=block_size, **fields)
