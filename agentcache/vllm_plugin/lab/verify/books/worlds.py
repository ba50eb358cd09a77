"""The worlds in which programs run over the device that keeps books, and the programs that are drawn for them."""

import random
from collections.abc import Iterator, Sequence

import msgspec

from agentcache.vllm_plugin.lab.verify.programs import (
    SHAPES,
    Abort,
    Budget,
    Drain,
    Evict,
    Op,
    Preempt,
    Program,
    Reset,
    Step,
    Submit,
)

BLOCK_SIZE = 4
CONTEXTS = 9
BUDGETS = (1, 3, 5, 8, 16, 32)
POOLS = (11, 12, 14, 20, 40)
"""Usable blocks. The longest request takes eleven."""
ANSWER_TOKENS = 6
ADMISSIONS = ("fcfs", "priority", "program", "resident-first", "fixed-release:5", "working-set")
GROUPS = (
    ("full",),
    ("full", "window 6"),
    ("full", "window 9", "window 9"),
    ("full", "window 5", "window 14"),
    ("full", "state"),
    ("state", "full", "state"),
    ("chunk 8", "full"),
)
"""KV groups below `holes`: of full attention, of MLA, with a window or in chunks of so many tokens, or of states."""
HOSTS = (16, 24, 80)
"""Places in host memory, of which a context of the longest kind takes sixteen."""
POLICIES = ("return-index", "lru-holes", "lru", "asymcache")


class World(msgspec.Struct, frozen=True):
    """A scheduler: ours or vLLM's own (`stock`), with at most `depth` steps whose outputs are not back.

    `AsyncScheduler` goes beyond one, and a pipeline of several stages. `segments` of a request at most, as in
    `EngineOptions`; `whole`: a prompt begins only where all of it fits; `groups` as in `GROUPS`, several for `stock`
    and for levels below `holes`; `level`: the one asked for, or "" for the highest that can be had; `flags`: of vLLM's
    server; `drafts`: tokens that are drafted for a request at most, where no step is ahead and no group has states;
    `host`: places in host memory.
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
    groups: tuple[str, ...] = ("full",)
    level: str = "holes"
    drafts: int = 0
    flags: tuple[str, ...] = ()
    host: int = 0


class InWorld(Program, frozen=True):
    """A program and the world in which it happens."""

    world: World


def draw_world(rng: random.Random) -> World:
    depth = rng.choice((1, 2, 2, 3))
    world = World(
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
    if rng.random() >= 0.85:
        groups = rng.choice(GROUPS)
        level = rng.choice(("order", "order", "admit"))
        world = msgspec.structs.replace(world, level=level, groups=groups, pool=world.pool * len(groups))
    if world.groups == ("full",) and world.level != "admit" and rng.random() < 0.4:
        world = msgspec.structs.replace(world, host=rng.choice(HOSTS))
    drafts = 0 if "state" in world.groups else rng.choice((0, 0, 2, 3))
    return world if world.asynchronous else msgspec.structs.replace(world, drafts=drafts)


def draw(rng: random.Random, world: World | None = None) -> InWorld:
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
    world = world or draw_world(rng)
    return InWorld((*(_crowd(rng) if world.host and rng.random() < 0.4 else ops), Drain()), world)


def _crowd(rng: random.Random) -> Iterator[Op]:
    """More contexts return than both levels hold, and some clients leave while their turns wait for blocks."""
    yield _budget(rng)
    for _ in range(30):
        shape, salt = rng.choice(("whole", "follow-up")), rng.choice((None, "a", "b"))
        yield Submit(rng.randrange(CONTEXTS), shape, answer=2, salt=salt, urgency=rng.choice((0, 0, 1, 2, 3)))
        yield Step(rng.choice((0, 1, 1, 2, 4)))
        if rng.random() < 0.3:
            yield rng.choice((Abort(-1), Drain(), Drain(), Reset(rng.random() < 0.5)))


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
