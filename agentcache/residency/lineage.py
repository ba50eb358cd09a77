"""Lineage: whether a turn that names no context goes on from one that is idle, by the blocks that they share."""

from collections.abc import Iterable

from agentcache.model import Context, Key, Standing, shared

LOOKED_AT = 64
"""Of contexts that are alike, so many of the latest are looked at: a turn costs the same however many there are."""


def goes_on(context: Context, keys: tuple[Key, ...], common: int, own: int) -> bool:
    """Whether a turn goes on from an idle context with which its first `common` blocks agree.

    The context shares its first `own` blocks with other contexts, and the rest is its own. What a turn shares says who
    it is only where it is the context's own: agents have long prompts in common. A conversation's first prompt may be
    that of others too, whom nobody has seen yet. In doubt the turn is somebody else's: a context too many costs the
    room of what it would have left behind, a context taken over costs an agent its blocks.
    """
    if common == len(context.chain):
        return True  # nothing is left behind
    if common <= own:
        return False
    if common >= context.given - 1:
        # All that its last turn was given, but for the block at its end: its answer may come back without the
        # reasoning, or be asked for again. A first prompt, asked again, may be another agent's with the same task.
        another = len(keys) <= context.given and (common == len(keys) or not own)
        return context.given > context.opening or not another
    # An edit of the past, if most of it stays. Who waits for a tool goes on with its result, or forks.
    start = max(own, context.opening)
    return context.standing is not Standing.TOOL and 2 * (common - start) >= context.given - start


def nearest(family: Iterable[Context], keys: tuple[Key, ...]) -> Context | None:
    """Of a job's contexts, the idle one from which a turn goes on."""
    ranked = sorted(((shared(context.chain, keys), context) for context in family), key=lambda pair: -pair[0])
    whole = [context for common, context in ranked if common == len(context.chain) and not context.turns]
    if not ranked:
        return None
    common, first = ranked[0]
    own = ranked[1][0] if len(ranked) > 1 else 0
    if not first.turns and goes_on(first, keys, common, own):
        return first
    return max(whole, key=lambda context: len(context.chain), default=None)
