"""What a cache of any size could have held: the part of each prompt that earlier calls had left behind."""

from collections.abc import Iterable, Sequence

from agentcache.model import Key
from agentcache_workloads.replay.jobs.jobs import PlannedJob
from agentcache_workloads.replay.jobs.keys import block_keys
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import CallRecord


def known_tokens(
    jobs: Sequence[PlannedJob], renderer: Renderer, tokens_per_block: int, block_size: int, calls: Iterable[CallRecord]
) -> dict[str, int]:
    """By turn, the leading tokens of its prompt, in whole blocks, that calls which had ended by its start had shown.

    The last token of a prompt is always computed, and its block with it. Calls that never ended leave nothing.
    """
    prompts: dict[str, tuple[Key, ...]] = {}
    whole: dict[str, tuple[Key, ...]] = {}
    for job in jobs:
        keys = block_keys(job, renderer, tokens_per_block, block_size)
        for turn in job.turns:
            whole[turn.id] = keys[turn.index]
            prompts[turn.id] = keys[turn.index][: (renderer.sizes(turn).prompt - 1) // block_size]
    made = [call for call in calls if call.finished_s is not None and call.error is None]
    # Ends before starts at the same moment: a turn without a pause starts when the one before it has ended.
    moments = sorted(
        [(call.finished_s or 0.0, 0, call.turn) for call in made] + [(call.arrived_s, 1, call.turn) for call in made]
    )
    seen: set[Key] = set()
    known = {}
    for _, starts, turn_id in moments:
        if not starts:
            seen.update(whole[turn_id])
            continue
        prompt = prompts[turn_id]
        known[turn_id] = next((i for i, key in enumerate(prompt) if key not in seen), len(prompt)) * block_size
    return known
