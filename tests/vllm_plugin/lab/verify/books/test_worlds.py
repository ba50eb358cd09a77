"""Programs are data: the same of one seed, written down and read again, and made smaller."""

import random

import msgspec

from agentcache.vllm_plugin.lab.verify.books import worlds
from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld, World
from agentcache.vllm_plugin.lab.verify.programs import Budget, Drain, Submit


def test_one_seed_one_program() -> None:
    first, second = (worlds.draw(random.Random("x")) for _ in range(2))
    assert first == second != worlds.draw(random.Random("y"))
    assert first.ops[-1] == Drain()
    assert msgspec.json.decode(first.json, type=InWorld) == first


def test_a_world_may_be_given() -> None:
    world = World(stock=True)
    assert worlds.draw(random.Random(1), world).world == world


def test_what_was_written_before_operations_were_shared_is_read() -> None:
    ops = b'[{"type":"submit","context":8,"answer":6},{"type":"budget","tokens":5,"each":2}]'
    assert msgspec.json.decode(b'{"world":{"depth":2},"ops":%b}' % ops, type=InWorld) == InWorld(
        (Submit(8, answer=6), Budget(5, 2)), World(2)
    )
