"""Programs are data: the same of one seed, written down and read again, and made smaller."""

import random

import msgspec

from agentcache.vllm_plugin.lab.model_check import programs
from agentcache.vllm_plugin.lab.model_check.programs import Abort, Drain, Program, Step, Submit, World


def test_one_seed_one_program() -> None:
    first, second = (programs.draw(random.Random("x")) for _ in range(2))
    assert first == second != programs.draw(random.Random("y"))
    assert first.ops[-1] == Drain()
    assert msgspec.json.decode(first.json, type=Program) == first


def test_a_world_may_be_given() -> None:
    world = World(stock=True)
    assert programs.draw(random.Random(1), world).world == world


def test_shrinking_leaves_what_is_needed() -> None:
    program = Program(World(), (Submit(1), Step(3), Submit(2), Abort(0), Step(), Submit(3), Drain()))
    smaller = programs.shrink(program, lambda one: Submit(2) in one.ops and Abort(0) in one.ops)
    assert smaller.ops == (Submit(2), Abort(0))
