"""What blocks of a level are told of their contexts: owners and standing, as the book has them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat

from agentcache.model import NOBODY, Block, Key, Owners, Standing


def released(
    blocks: Sequence[Block], keys: Sequence[Key], owned: Mapping[Key, Owners], release: int, now: float
) -> None:
    """Write on blocks with these keys when they became evictable, whose they are, and how they stand."""
    before: Owners | None = None
    standing = Standing.UNKNOWN
    for block, owners in zip(blocks, map(owned.get, keys, repeat(NOBODY)), strict=True):
        if owners is not before:  # runs of a chain have the same
            before, standing = owners, owners.standing
        block.release, block.released_at, block.standing, block.owners = release, now, standing, owners


def restood(
    keys: Iterable[Key],
    held: Mapping[Key, Block],
    copies: Callable[[Key], Iterable[Block]],
    owned: Mapping[Key, Owners],
    kept: range,
) -> tuple[Block, ...]:
    """Write owners and standing of what is `held` of a chain anew; returns the blocks that they changed for.

    `copies`: of a key that is held, the blocks that a policy orders. Keys at `kept` are of the same contexts as before.
    """
    before: Owners | None = None
    standing = Standing.UNKNOWN
    changed = []
    for index, key in enumerate(keys):
        if key not in held:
            continue
        owners = owned.get(key, NOBODY)
        if owners is not before:
            before, standing = owners, owners.standing
        for block in copies(key):
            if block.standing is not standing or block.owners is not owners or index not in kept:
                block.standing, block.owners = standing, owners
                changed.append(block)
    return tuple(changed)
