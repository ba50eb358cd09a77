"""lru, arc and belady on a stream of independent unit-cost keys, against libCacheSim's implementations."""

import random
from collections.abc import Sequence

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Block, TurnArrived
from agentcache.policy import make_policy
from agentcache.policy.published.belady import Belady, uses_of

lc = pytest.importorskip("libcachesim", reason="libcachesim is not installed")

COST = CostModel(CostProfile(c_lin=1e-4, c_att=0.0), 16)


def zipf(seed: int, requests: int = 6000, keys: int = 500) -> list[int]:
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(keys)]
    stream = draw.choices(range(1, keys + 1), weights, k=requests)
    # A scan in the middle: where recency and frequency disagree.
    return stream[: requests // 2] + list(range(10_000, 10_000 + keys // 2)) + stream[requests // 2 :]


def ours(name: str, stream: Sequence[int], capacity: int) -> int:
    """Hits when each key is a turn of one block that begins and ends at once."""
    policy = make_policy(name, COST, capacity)
    if isinstance(policy, Belady):
        policy.foresee("future", uses_of((float(at), [key]) for at, key in enumerate(stream)))
    blocks: dict[int, Block] = {}
    hits = 0
    for at, key in enumerate(stream):
        policy.observe(TurnArrived(str(at), (key,)), at)
        block = blocks.get(key)
        if block is not None:
            hits += 1
            policy.touch(block, at)
        else:
            if len(blocks) == capacity:
                (victim,) = policy.victims(1, frozenset(), at) or []
                del blocks[victim.key]  # type: ignore[arg-type]
            block = blocks[key] = Block(key, key, 0)
        block.release, block.released_at = at + 1, float(at)
        policy.offer(block, at + 0.5)
    policy.check()
    return hits


def theirs(cls: type, stream: Sequence[int], capacity: int) -> int:
    cache = cls(capacity)
    upcoming: dict[int, int] = {}
    following = [0] * len(stream)
    for at in range(len(stream) - 1, -1, -1):
        following[at] = upcoming.get(stream[at], 2**62)
        upcoming[stream[at]] = at
    hits = 0
    for at, key in enumerate(stream):
        request = lc.Request(obj_id=key, obj_size=1)
        request.next_access_vtime = following[at]
        hits += bool(cache.get(request))
    return hits


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("capacity", [20, 100, 300])
def test_lru_and_belady_have_the_same_hits(seed: int, capacity: int) -> None:
    stream = zipf(seed)
    assert ours("lru", stream, capacity) == theirs(lc.LRU, stream, capacity)
    assert ours("belady", stream, capacity) == theirs(lc.Belady, stream, capacity)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("capacity", [20, 100, 300])
def test_arc_has_nearly_the_same_hits(seed: int, capacity: int) -> None:
    """A pool makes room before it knows the list that the new key will go to, so ghosts are trimmed a step later."""
    stream = zipf(seed)
    assert ours("arc", stream, capacity) == pytest.approx(theirs(lc.ARC, stream, capacity), rel=0.01)
