"""Drawn programs for a scheduler: what is submitted, stepped, evicted, preempted and aborted, on whichever device.

A program is data: it can be drawn from a seed, written down, run again and made smaller.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

ANSWER_TOKENS = 8
SHAPES = ("whole", "cut", "aligned", "follow-up")


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request over a context of the device: all of it, a part, or it with its answer and a tool's output behind."""

    context: int
    shape: str = "whole"
    answer: int = ANSWER_TOKENS
    samples: int = 1
    salt: str | None = None
    urgency: int = 0


class Step(msgspec.Struct, frozen=True, tag="step"):
    count: int = 1


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Step until nothing runs."""


class Evict(msgspec.Struct, frozen=True, tag="evict"):
    """Evict cached blocks that nobody references: a share of them, or of the positions in contexts (`clustered`)."""

    share: float
    seed: int
    clustered: bool = False
    chunk_blocks: int = 1


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The client of the n-th live request (modulo their number) leaves."""

    number: int


class Preempt(msgspec.Struct, frozen=True, tag="preempt"):
    """As `Abort`, but of those that run, and the engine takes its blocks between two steps and starts it again."""

    number: int


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Forget all that is cached; `running` preempts what runs, without it nothing happens while something does."""

    running: bool = False


class Budget(msgspec.Struct, frozen=True, tag="budget"):
    """From now on a step computes at most so many tokens, and at most `each` of one prompt: 0 any, None as before."""

    tokens: int
    each: int | None = None


class Corrupt(msgspec.Struct, frozen=True, tag="corrupt"):
    """Overwrite blocks that stay cached. No engine can be right after that: for the negative control alone."""


class Squeeze(msgspec.Struct, frozen=True, tag="squeeze"):
    """A step in which only so many blocks are free."""

    free: int


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """Put the engine to sleep and wake it; what runs is kept for afterwards."""


Op = Submit | Step | Drain | Evict | Abort | Preempt | Reset | Budget | Corrupt | Squeeze | Sleep


class Program(msgspec.Struct, frozen=True):
    """What happens to a scheduler that remembers nothing; it ends with a `Drain`."""

    ops: tuple[Op, ...]

    @property
    def json(self) -> str:
        return msgspec.json.encode(self).decode()


P = TypeVar("P", bound=Program)


def shrink(program: P, fails: Callable[[P], bool], trials: int) -> P:
    """A smaller program that still fails: operations are left out, large runs of them first, then made plainer.

    `fails` is asked at most `trials` times, and never of a program that is not smaller.
    """
    ops = _ended(program.ops)
    size = len(ops) // 2
    while size and trials:
        start = 0
        while start < len(ops) and trials:
            fewer = _ended((*ops[:start], *ops[start + size :]))
            if len(fewer) >= len(ops):
                start += size
                continue
            trials -= 1
            if fails(msgspec.structs.replace(program, ops=fewer)):
                ops = fewer
            else:
                start += size
        size //= 2
    for place, op in enumerate(ops):
        plainer = _plainer(op)
        if trials and plainer != op:
            trials -= 1
            simpler = (*ops[:place], plainer, *ops[place + 1 :])
            if fails(msgspec.structs.replace(program, ops=simpler)):
                ops = simpler
    return msgspec.structs.replace(program, ops=ops)


def _ended(ops: Sequence[Op]) -> tuple[Op, ...]:
    """As every program ends: with nothing left to run."""
    return (*ops,) if ops and ops[-1] == Drain() else (*ops, Drain())


def _plainer(op: Op) -> Op:
    """The same operation with nothing said that can go without saying."""
    match op:
        case Submit():
            return Submit(op.context)
        case Step():
            return Step()
        case Abort() | Preempt():
            return type(op)(0)
        case _:
            return op
