"""The LRU orders, against lists written out by hand."""

from agentcache.model import Block
from agentcache.policy import Policy, make_policy
from tests.policy.conformance import COST


def release(policy: Policy, number: int, blocks: list[Block]) -> None:
    """Give a turn's blocks back as vLLM does: tail first."""
    for block in reversed(blocks):
        block.release, block.released_at = number, float(number)
        policy.offer(block, float(number))


def order(policy: Policy) -> list[int]:
    victims = policy.victims(len(policy), frozenset(), 100.0)
    assert victims is not None
    return [block.id for block in victims]


def chain(first: int, count: int) -> list[Block]:
    return [Block(first + index, f"k{first + index}", index) for index in range(count)]


def two_turns_that_share(policy: Policy) -> None:
    """Turn A has blocks 0-3; turn B reuses 0 and 1 and adds 10 and 11; C has 20."""
    a, b = chain(0, 4), chain(10, 4)[:2]
    for index, block in enumerate(b):
        block.index = 2 + index
    release(policy, 1, a)
    release(policy, 2, chain(20, 1))
    for block in a[:2]:
        policy.touch(block, 3.0)
    release(policy, 3, a[:2] + b)


def test_lru_is_vllms_queue() -> None:
    policy = make_policy("lru", COST, 16)
    two_turns_that_share(policy)
    assert order(policy) == [3, 2, 20, 11, 10, 1, 0]


def test_lru_holes_takes_the_head_of_the_oldest_turn() -> None:
    policy = make_policy("lru-holes", COST, 16)
    two_turns_that_share(policy)
    assert order(policy) == [2, 3, 20, 0, 1, 10, 11]


def test_excluded_blocks_keep_their_place() -> None:
    policy = make_policy("lru", COST, 16)
    blocks = chain(0, 4)
    release(policy, 1, blocks)
    victims = policy.victims(2, {blocks[3]}, 2.0)
    assert victims == [blocks[2], blocks[1]]
    assert order(policy) == [3, 0]
