"""Cases: programs for a real engine, and the engine in which each runs. Known without vLLM."""

import random
from collections.abc import Sequence

import msgspec

from agentcache.errors import InputError
from agentcache.vllm_plugin.lab.verify.programs import (
    ANSWER_TOKENS,
    SHAPES,
    Abort,
    Budget,
    Corrupt,
    Drain,
    Evict,
    Op,
    Preempt,
    Program,
    Reset,
    Sleep,
    Squeeze,
    Step,
    Submit,
)

BLOCK_SIZE = 32
MAX_LEN = 1024
CONTEXTS = 12
LONGEST = CONTEXTS - 4
"""The context of most tokens: they are in order of length, but for the three of odd lengths at the end."""
EDGE = CONTEXTS - 2
"""The context of one block: the first token of its answer needs another."""
LONG = range(LONGEST - 4, LONGEST + 1)
BUDGETS = (32, 33, 64, 100, 256, 512, 1024, 2048)
POOLS = (36, 48, 80, 160, 400)
"""Blocks that a case may use. The longest request takes 33; eight of them preempt one another in the first two."""


class Case(Program, frozen=True):
    """A program in an engine of which so many blocks may be used.

    `equal`: every step has the shape it had in the cold run, so answers are equal to the last bit.
    """

    pool: int = POOLS[-1]
    equal: bool = False


class Setting(msgspec.Struct, frozen=True):
    """An engine to run cases in.

    `threshold`: tokens of a long prompt in a step that others share, so that several are prefilled side by side; 0 sets
    no bound. `plugin`: whether AgentCache is on, or vLLM runs alone. `host_memory`: GiB below the pool.
    """

    model: str
    dtype: str
    scheduler: str = "sync"
    mode: str = "fused"
    runner: str = "v1"
    worker: str = "ours"
    order: str = "fcfs"
    policy: str = "return-index"
    seed: int = 1
    threshold: int = 0
    plugin: bool = True
    host_memory: float = 0.0

    @property
    def name(self) -> str:
        worker = "" if self.worker == "ours" else f" on {self.worker} worker"
        where = f"{self.scheduler} {self.mode} {self.runner} {self.order} {self.policy}"
        shared = f" threshold {self.threshold}" if self.threshold else ""
        below = f" host memory {self.host_memory:g} GiB" if self.host_memory else ""
        return f"{self.model} {self.dtype} {where}{shared}{below}{worker}{'' if self.plugin else ', vLLM alone'}"

    @property
    def beside(self) -> "Setting | None":
        """Stock vLLM in the same setting, run beside it where a step's work may be withdrawn; None elsewhere."""
        return msgspec.structs.replace(self, plugin=False) if self.threshold and self.plugin else None


class Reproducer(msgspec.Struct, frozen=True):
    """A case with its engine: all that is needed to see it again. `before`: cases without which it does not fail."""

    setting: Setting
    case: Case
    before: tuple[Case, ...] = ()

    @classmethod
    def read(cls, text: str) -> "Reproducer":
        """Raises `InputError` for what `json` has not written."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise InputError(
                f"this is no case: {error}; nothing was started", hint="give it as it was printed"
            ) from error

    @property
    def json(self) -> str:
        return msgspec.json.encode(self).decode()


# Drawing


def draw(rng: random.Random, runner: str = "v1", crowded: bool = False) -> Case:
    """A case of a few dozen operations; smaller ones for the second runner, which is interpreted here.

    `crowded`: in a small pool that now and then has no block for the urgent.
    """
    if rng.random() < 0.1:
        return _equal(rng)
    ops: list[Op] = [Budget(_budget(rng, runner))]
    # Few contexts, mostly long ones: they meet each other's blocks.
    favourites = [rng.choice((rng.randrange(CONTEXTS), *LONG)) for _ in range(rng.choice((1, 2, 3)))]
    # vLLM's kernel that samples does not run under Triton's interpreter; the one that takes the likeliest does.
    samples = (1,) if runner == "v2" else (1, 1, 1, 1, 2, 3)
    salts = rng.choice(((None,), (None,), ("a",), (None, "a", "b")))
    rounds = 2 if runner == "v2" else rng.choice((2, 3, 4))
    for number in range(rounds):
        if number:
            ops.append(_evict(rng))
        for _ in range(rng.choice((1, 2, 2, 3)) if runner == "v2" else rng.choice((1, 2, 2, 3, 5))):
            ops.append(_submit(rng, favourites, salts, samples))
            if rng.random() < 0.3:
                ops.append(Step(rng.choice((1, 1, 2, 5))))
        if number or rng.random() < 0.3:
            ops += _disturbances(rng)
        if crowded:
            ops += [Submit(rng.choice((EDGE, *favourites))), Step(), Squeeze(rng.choice((1, 1, 2, 3)))]
        if number == 0 or rng.random() < 0.5:
            ops.append(Drain())
    return Case((*ops, Drain()), pool=rng.choice(POOLS[:2] if crowded else POOLS))


def _submit(
    rng: random.Random, favourites: Sequence[int], salts: Sequence[str | None], samples: Sequence[int]
) -> Submit:
    return Submit(
        rng.choice(favourites),
        rng.choice(SHAPES),
        answer=rng.randint(1, ANSWER_TOKENS),
        samples=rng.choice(samples),
        salt=rng.choice(salts),
        urgency=rng.choice((0, 0, 1, 2)),
    )


def _budget(rng: random.Random, runner: str = "v1") -> int:
    """Small ones more often: what happens in the middle of a rebuild needs one of several steps."""
    least = 2 if runner == "v2" else 0
    return rng.choice((*BUDGETS[least:], *BUDGETS[least:4]))


def _evict(rng: random.Random) -> Evict:
    return Evict(rng.choice((0.1, 0.3, 0.5, 0.7, 0.9)), rng.randrange(1000), clustered=rng.random() < 0.5)


def _disturbances(rng: random.Random) -> list[Op]:
    """What happens while requests run."""
    ops: list[Op] = []
    for _ in range(rng.choice((0, 1, 2, 3))):
        ops.append(Step(rng.choice((1, 1, 2, 3))))
        kind = rng.random()
        if kind < 0.25:
            ops.append(Abort(rng.randrange(8)))
        elif kind < 0.5:
            ops.append(Preempt(rng.randrange(8)))
        elif kind < 0.7:
            ops.append(_evict(rng))
        elif kind < 0.8:
            ops.append(Reset(running=rng.random() < 0.7))
        elif kind < 0.95:
            ops.append(Budget(_budget(rng)))
        else:
            ops.append(Sleep())
    return ops


EQUAL_BUDGET = 2 * BLOCK_SIZE


def _equal(rng: random.Random) -> Case:
    """One request at a time, and holes of whole chunks."""
    context = rng.randrange(CONTEXTS)
    ops: list[Op] = [Budget(EQUAL_BUDGET), Submit(context), Drain()]
    for _ in range(3):
        ops += [Evict(rng.choice((0.3, 0.5, 0.7)), rng.randrange(1000), True, EQUAL_BUDGET // BLOCK_SIZE)]
        ops += [Submit(context), Drain()]
    return Case(tuple(ops), equal=True)


def tour(runner: str = "v1") -> list[Case]:
    """Cases that together go through every path, whatever is drawn besides; fewer for the second runner."""
    small = runner == "v2"
    long = 2 if small else LONGEST
    asked = Submit(long)
    disturbed = Case(
        (
            Budget(64 if small else BUDGETS[0]),
            *(Submit(long - 1), Submit(long, salt="a"), asked, Drain()),
            *(Evict(0.5, 1), asked, Submit(long, "aligned"), Step(), Preempt(0), Step(), Abort(0), Drain()),
            *(Evict(0.5, 2), asked, Submit(long, salt="a"), Submit(long, salt="b"), Step(), Evict(0.9, 3), Drain()),
            *(Evict(0.5, 4), asked, Step(), Reset(running=True), Drain(), asked, Drain()),
            *(Evict(0.5, 5), asked, Step(), Sleep(), Drain(), Reset(), asked, Drain()),
        )
    )
    if small:
        return [disturbed]
    shared: list[Op] = [Budget(BUDGETS[-1]), asked, Drain()]
    for tokens in BUDGETS:
        shared += [
            Budget(tokens),
            Evict(0.5, tokens),
            asked,
            Submit(long, samples=2),
            Submit(long, "follow-up"),
            Drain(),
        ]
    crowd = (Submit(long, samples=3), Submit(long - 1, "follow-up"), Submit(long - 2, urgency=2), Submit(long, "cut"))
    crowded = Case((Budget(100), *crowd, Drain(), Evict(0.3, 6), *crowd, Drain()), pool=POOLS[0])
    return [disturbed, Case(tuple(shared)), crowded]


def withdrawal() -> Case:
    """A long prompt gets the last free block or two, and loses all in the same step to a short one of more urgency.

    That takes a setting with a threshold and priorities: without, it would prefill alone, or be the first in line.
    """
    ops: list[Op] = []
    for free, salt in ((1, "a"), (2, "b")):
        ops += [Budget(EQUAL_BUDGET), Submit(LONGEST, urgency=2, salt=salt), Step(2)]
        ops += [Budget(BUDGETS[4]), Submit(EDGE), Step(), Squeeze(free), Drain()]
        ops += [Evict(0.5, free), Submit(LONGEST, salt=salt), Drain()]
    return Case(tuple(ops), pool=POOLS[2])


def control(contexts: Sequence[int] = (3, 5, 11)) -> Case:
    """The negative control: blocks that are wrong and stay cached must be seen in the answers."""
    asked = [Submit(number) for number in contexts]
    return Case((Budget(BUDGETS[-1]), *asked, Drain(), Corrupt(), *asked, Drain()))
