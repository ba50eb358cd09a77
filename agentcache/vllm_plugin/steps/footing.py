"""What contexts take of an engine's pool, worked out from the kinds of its KV groups.

Full attention, MLA among it, takes blocks for each key. The other kinds take blocks for each context: a sliding window
those of its tail, chunked attention half a chunk in the mean, Mamba and its like a few states. A kind that is not
known counts as full attention, which takes the most.

Where vLLM's own order of eviction runs, a turn leaves more than that behind, newer than what others still want: what
falls out of a window or a chunk, and each state but the last, is freed with its key. Under a sparse retention
(`prefix_cache_retention_interval`, 0 unless somebody says otherwise) most of it has no key and is free at once, but not
the places where returns were expected: the end of the prompt before and the end of the reply to it. A return finds the
end of the prompt; the reply is computed again, and stands twice. What a step computes beyond windows is in the pool
while the step runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.vllm_plugin import compat

STEP_SHARE = 0.25
"""Of the pool, what steps are granted at most: where one fills all of it no context survives, whoever is in."""


def footing_of(
    config: Any, hash_block_size: int, step_tokens: int, *, dcp: int = 1, eagle: bool = False, dead_first: bool = False
) -> Footing:
    """The footing in the pool of a `KVCacheConfig`, whose block hashes stand for `hash_block_size` tokens each.

    A step computes at most `step_tokens`. Decode context parallelism over `dcp` ranks makes sharded blocks as many
    times as long. `eagle`: hits drop their last block, in the groups that say so or else in all. `dead_first`: the
    order of eviction takes what no return can find before anything else.
    """
    flagged = any(group.is_eagle_group for group in config.kv_cache_groups)
    retention = config.prefix_cache_retention_interval
    shares = []
    for group in config.kv_cache_groups:
        if group.host_resident:  # its blocks are of another pool
            continue
        spec = next(iter(compat.iter_layer_specs(group.kv_cache_spec)))  # all layers of a group are of one kind
        tokens = spec.block_size * (dcp if spec.dcp_sharded else 1)
        blocks = _Blocks(tokens, hash_block_size / tokens, ceil(step_tokens / tokens), retention, dead_first)
        if isinstance(spec, compat.CircularBufferSpec):
            shares.append(_Share(contexts=1))
        elif isinstance(spec, compat.MambaSpec):
            shares.append(_states(spec, blocks))
        elif isinstance(spec, compat.ChunkedLocalAttentionSpec):
            shares.append(_dense(spec.attention_chunk_size / tokens / 2, blocks))
        elif isinstance(spec, compat.SlidingWindowSpec):
            shares.append(_window(spec, blocks, eagle and (group.is_eagle_group or not flagged)))
        else:
            shares.append(_Share(keys=blocks.a_key))
    return _together(shares, STEP_SHARE * config.num_blocks)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Of a group: tokens of each, how many there are to a key and to a step, and when one is freed without its key."""

    tokens: int
    a_key: float
    a_step: int
    retention: int | None
    dead_first: bool


@dataclass(frozen=True, slots=True)
class _Share:
    """What a group adds to a footing; of what is left, that of a turn's first `most` computed keys."""

    keys: float = 0
    contexts: float = 0
    left: float = 0
    most: float = inf
    steps: float = 0


def _dense(kept: float, blocks: _Blocks) -> _Share:
    """A context keeps so many blocks, and frees all others with their keys."""
    if blocks.dead_first:
        return _Share(contexts=kept, steps=blocks.a_step)
    return _Share(contexts=kept, left=blocks.a_key)


def _window(spec: Any, blocks: _Blocks, eagle: bool) -> _Share:
    kept = ceil((spec.sliding_window - 1 + spec.extra_retained_tokens) / blocks.tokens) + 1  # it begins inside of one
    if not spec.prefix_cacheable:
        return _Share(contexts=kept, steps=blocks.a_step)
    if blocks.retention is None:
        return _dense(kept, blocks)
    found = ceil((spec.sliding_window - 1) / blocks.tokens) + eagle  # by a return, where decoding may have passed it by
    if blocks.dead_first:
        return _Share(contexts=kept + found, steps=blocks.a_step)
    places = 3 * found  # that has keys: the ends of this prompt, of the one before and of the reply to that
    if not blocks.retention:
        return _Share(contexts=kept, left=blocks.a_key, most=places / blocks.a_key, steps=blocks.a_step)
    share = min(found * blocks.tokens / blocks.retention, 1)
    return _Share(contexts=kept + places, left=share * blocks.a_key, steps=(1 - share) * blocks.a_step)


def _states(spec: Any, blocks: _Blocks) -> _Share:
    running = 2 + spec.num_speculative_blocks + spec.num_prefill_checkpoint_blocks  # as vLLM's own bound has it
    inside = blocks.a_key < 1  # a state in the middle of a block, which is copied before it goes on
    if blocks.dead_first or blocks.retention == 0:
        return _Share(contexts=running + 2 + inside)  # of the turn before, as near as if a return might find them
    apart = max(blocks.a_step * blocks.tokens, blocks.retention or 0)  # a chunk of prefill has one state
    return _Share(contexts=running + 1 + inside, left=blocks.a_key * blocks.tokens / apart)


def _together(shares: Iterable[_Share], most_step_blocks: float) -> Footing:
    shares = list(shares)
    keys = sum(share.keys for share in shares)
    contexts = sum(share.contexts for share in shares)
    if not keys + contexts:  # nothing of this pool: what is counted then limits nobody wrongly for long
        return ONE_GROUP
    capped = [share for share in shares if share.left and share.most < inf]
    left = sum(share.left for share in shares if share.most == inf)
    left_keys = inf
    if left:  # no cap: what has one counts as if it were reached
        contexts += sum(share.left * share.most for share in capped)
    elif capped:
        left = keys + sum(share.left for share in capped)
        left_keys = ceil(sum(share.left * share.most for share in capped) / (left - keys))
    return Footing(keys, contexts, left, left_keys, min(sum(share.steps for share in shares), most_step_blocks))
