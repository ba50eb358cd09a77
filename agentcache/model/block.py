"""A block: the K/V of a fixed number of consecutive tokens, the unit of residency."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from agentcache.model.owners import NOBODY, Owners
from agentcache.model.standing import Standing

Key = Hashable
"""A chained content key: it commits to the block's tokens and to everything before them."""


@dataclass(slots=True, eq=False)
class Block:
    """One block that a host holds. Compared by identity: two copies of one key are two blocks.

    `id` is the host's own name for the memory: a small number that no other block of the host has meanwhile, so that
    policies may index by it. `index` is the number of blocks before it in its chain.
    The other fields are written by the residency when the last reference goes: `release` counts releases (blocks that
    one turn gives back share a number), `released_at` is in seconds, `owners` are the contexts whose chains hold the
    block; it stands as the liveliest of them. Policies keep nothing here: two of them may order parts of one pool.
    """

    id: int
    key: Key
    index: int
    release: int = 0
    released_at: float = 0.0
    standing: Standing = Standing.UNKNOWN
    owners: Owners = NOBODY
