"""A context: the chain of blocks of one session after its last turn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentcache.model.block import Key
from agentcache.model.owners import Owners
from agentcache.model.standing import Standing


@dataclass(slots=True, eq=False)
class Context:
    """One agent branch's chain of full blocks, as far as its turns have shown it.

    `turns` holds the ids of its turns now queued or running: it is idle when that is empty. `idle_since` is the end
    of its last turn in seconds. `depth` counts finished turns. `opening` and `given` are the full blocks of its first
    prompt and of its last one, `seat` the owners of its last block: standing, chain and seat are the book's to change.
    `held`: admission lets no turn of its job run at present.
    """

    id: str
    job: str
    chain: tuple[Key, ...] = field(default=(), repr=False)
    standing: Standing = Standing.UNKNOWN
    idle_since: float = 0.0
    tool: str | None = None
    depth: int = 0
    opening: int = 0
    given: int = 0
    seat: Owners | None = field(default=None, repr=False)
    held: bool = False
    turns: set[str] = field(default_factory=set)


def shared(a: Sequence[Key], b: Sequence[Key]) -> int:
    """Length of the common prefix of two chains: O(log n), since an equal chained key means equal keys before it."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
