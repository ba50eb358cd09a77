"""Drawn programs for a scheduler over the device that keeps books, and the worlds they run in: all of it is data."""

import random
from collections.abc import Callable, Sequence

import msgspec

BLOCK_SIZE = 4
CONTEXTS = 9
BUDGETS = (1, 3, 5, 8, 16, 32)
POOLS = (11, 12, 14, 20, 40)
"""Usable blocks. The longest request takes eleven."""
ANSWER_TOKENS = 6
SHAPES = ("whole", "cut", "aligned", "follow-up")
ADMISSIONS = ("fcfs", "priority", "program", "resident-first", "fixed-release:5", "working-set")
POLICIES = ("return-index", "lru-holes", "lru", "asymcache")


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request over a context: all of it, a part, or it with its answer and a tool's output behind."""

    context: int
    shape: str = "whole"
    answer: int = ANSWER_TOKENS
    salt: str | None = None
    urgency: int = 0


class Step(msgspec.Struct, frozen=True, tag="step"):
    count: int = 1


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Step until nothing runs."""


class Evict(msgspec.Struct, frozen=True, tag="evict"):
    """Evict a share of the cached blocks that nobody references."""

    share: float
    seed: int


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The client of the n-th live request (modulo their number) leaves."""

    number: int


class Preempt(msgspec.Struct, frozen=True, tag="preempt"):
    """As `Abort`, but the engine takes the blocks of the n-th running request between two steps."""

    number: int


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Forget all that is cached; `running` preempts what runs, without it nothing happens while something does."""

    running: bool = False


class Budget(msgspec.Struct, frozen=True, tag="budget"):
    """From now on a step computes at most so many tokens, and at most `each` of one prompt; 0: no such threshold."""

    tokens: int
    each: int = 0


Op = Submit | Step | Drain | Evict | Abort | Preempt | Reset | Budget


class World(msgspec.Struct, frozen=True):
    """A scheduler: ours or vLLM's own (`stock`), with at most `depth` steps whose outputs are not back.

    Only `AsyncScheduler` goes beyond one. `segments` of a request at most, as in `EngineOptions`; `whole`: a prompt
    begins only where all of it fits; `windows`: of
    sliding-window groups beside the full one, for `stock`.
    """

    depth: int = 1
    asynchronous: bool = False
    stock: bool = False
    order: str = "fcfs"
    mode: str = "fused"
    policy: str = "return-index"
    admission: str = "fcfs"
    pool: int = POOLS[-1]
    segments: int = 8
    whole: bool = False
    windows: tuple[int, ...] = ()


class Program(msgspec.Struct, frozen=True):
    """What happens in a world; it ends with a `Drain`."""

    world: World
    ops: tuple[Op, ...]

    @property
    def json(self) -> str:
        return msgspec.json.encode(self).decode()


def draw_world(rng: random.Random) -> World:
    depth = rng.choice((1, 2, 2, 3))
    return World(
        depth,
        asynchronous=depth > 1 or rng.random() < 0.3,
        order=rng.choice(("fcfs", "priority", "priority")),
        mode=rng.choice(("fused", "fused", "sequential")),
        policy=rng.choice((*POLICIES, *POLICIES[:2])),
        admission=rng.choice(ADMISSIONS),
        pool=rng.choice(POOLS),
        segments=rng.choice((8, 2)),
        whole=rng.random() < 0.5,
    )


def draw(rng: random.Random, world: World | None = None) -> Program:
    """A program of a few dozen operations, in a drawn world unless one is given."""
    ops: list[Op] = [_budget(rng)]
    favourites = [rng.randrange(CONTEXTS) for _ in range(rng.choice((1, 2, 3)))]
    for number in range(rng.choice((2, 3, 4))):
        if number:
            ops.append(Evict(rng.choice((0.2, 0.5, 0.8)), rng.randrange(100)))
        for _ in range(rng.choice((1, 2, 3, 5))):
            ops.append(_submit(rng, favourites))
            if rng.random() < 0.5:
                ops.append(Step(rng.choice((1, 1, 2, 4))))
        for _ in range(rng.choice((0, 1, 2, 4))):
            ops += [Step(rng.choice((1, 1, 2, 3))), _disturbance(rng, favourites)]
        if rng.random() < 0.6:
            ops.append(Drain())
    return Program(world or draw_world(rng), (*ops, Drain()))


def _submit(rng: random.Random, favourites: Sequence[int]) -> Submit:
    return Submit(
        rng.choice(favourites),
        rng.choice(SHAPES),
        answer=rng.randint(1, ANSWER_TOKENS),
        salt=rng.choice((None, None, None, "a")),
        urgency=rng.choice((0, 0, 1, 2, 3)),
    )


def _disturbance(rng: random.Random, favourites: Sequence[int]) -> Op:
    return rng.choice(
        (
            Abort(rng.randrange(8)),
            Preempt(rng.randrange(8)),
            Evict(rng.choice((0.2, 0.5, 0.8)), rng.randrange(100)),
            Reset(running=rng.random() < 0.7),
            _budget(rng),
            _submit(rng, favourites),
        )
    )


def _budget(rng: random.Random) -> Budget:
    return Budget(rng.choice(BUDGETS), rng.choice((0, 0, 2, 4, 7)))


def shrink(program: Program, fails: Callable[[Program], bool], trials: int = 300) -> Program:
    """A smaller program that still fails: operations are left out, large runs of them first."""
    ops, size = program.ops, len(program.ops) // 2
    while size and trials:
        start = 0
        while start < len(ops) and trials:
            fewer = (*ops[:start], *ops[start + size :])
            trials -= 1
            if fails(msgspec.structs.replace(program, ops=fewer)):
                ops = fewer
            else:
                start += size
        size //= 2
    return msgspec.structs.replace(program, ops=ops)
