"""Block keys of a job's turns without rendering them: what the engine would hash, named by the trace's block ids."""

from agentcache.model import Key
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.jobs.render import Renderer


def block_keys(job: PlannedJob, renderer: Renderer, tokens_per_block: int, block_size: int) -> list[tuple[Key, ...]]:
    """For each turn, the keys of its full engine blocks of `block_size` tokens, prompt and forced output.

    Equal keys stand for equal tokens from the first on, as in the engine: inside a prompt's trace blocks a key is the
    (chained) id of the trace block that the engine block ends in, with the place inside it; behind them it is the
    key that the branch's next turn has there, if that one extends this turn, else it is nobody else's.
    """
    keys: list[tuple[Key, ...]] = [()] * len(job.turns)
    for turn in reversed(job.turns):  # what extends a turn stands behind it
        sizes = renderer.sizes(turn)
        own = _body(turn, renderer.scope(turn), sizes.body // block_size, tokens_per_block, block_size)
        upcoming = renderer.extension(job, turn)
        count = sizes.total // block_size
        known: tuple[Key, ...] = ()
        if upcoming:  # its prompt is what this turn's output was forced to
            known = keys[upcoming.index][len(own) : min(count, renderer.sizes(upcoming).prompt // block_size)]
        rest = tuple((turn.id, index) for index in range(len(own) + len(known), count))
        keys[turn.index] = own + known + rest
    return keys


def _body(turn: PlannedTurn, scope: str, count: int, k: int, size: int) -> tuple[Key, ...]:
    items = turn.call.items or ()
    if size % k == 0 and not scope:  # a coarse block is named by the last trace block in it
        return tuple(items[size // k - 1 :: size // k][:count])
    ends = ((index + 1) * size - 1 for index in range(count))
    return tuple((f"{scope}{items[end // k]}", end % k) for end in ends)
