"""Withdrawn work: keys that a step gave to blocks which it will not compute after all.

vLLM registers a block's key when it allocates, before the step runs. A request may yet be preempted in the very step
that it was scheduled in, by a priority before its own; its blocks would go back under keys whose content was never
written. Stock vLLM is mostly saved by freeing tail first, and not always.
"""

from collections.abc import Iterable
from typing import Any

from agentcache.vllm_plugin.blocks.holes import Run
from agentcache.vllm_plugin.compat import Request


def withdraw(manager: Any, request: Request, resident: Iterable[Run] = ()) -> None:
    """Before a request gives its blocks back: take the keys at and beyond its computed tokens away again.

    `manager` is vLLM's or ours; each KV group is looked at. `resident` are the request's runs behind holes that were
    computed before it came: their keys stay. Between two steps there is nothing to withdraw, for tokens count as
    computed as soon as their step is made.
    """
    computed, pool = request.num_computed_tokens, manager.block_pool
    for group in manager.coordinator.single_type_managers:
        for block in group.req_to_blocks.get(request.request_id, ())[computed // group.block_size :]:
            length = block.block_hash_num_tokens  # of the prefix that its key commits to
            if length is None or length <= computed or any(start < length <= end for start, end in resident):
                continue
            pool._emit_block_removed_events(pool._remove_cached_block_hashes(block))
