"""The grid: shapes of steps that tell the coefficients of a cost profile apart."""

import itertools
import random
from dataclasses import dataclass

LENGTHS = 8
FIRST_LENGTH = 512
STARTS = (0.0, 0.1, 0.25, 0.5, 0.75)
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
SEGMENTS = (1, 2, 4, 8)
DECODES = ((0, 0), (1, 2048), (4, 1024), (8, 256), (16, 512), (32, 64))
"""Decodes that run beside, and the context that each starts with."""

Gap = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """A step: a prompt whose tokens are resident but for `gaps`, the last of which ends it; none: decodes alone."""

    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """Shapes measured beside the same decodes."""

    decodes: int
    context: int
    shapes: tuple[Shape, ...]


def lengths(max_len: int, block_size: int) -> list[int]:
    """Prompt lengths, geometric from 512 tokens (an eighth of a short limit) to the limit, in whole blocks."""
    low = min(FIRST_LENGTH, max(max_len // 8, block_size))
    ratio = (max_len / low) ** (1 / (LENGTHS - 1))
    return sorted({int(low * ratio**i + 0.5) // block_size * block_size for i in range(LENGTHS)})


def shapes(max_len: int, chunk: int, block_size: int) -> list[Shape]:
    """All steps of the grid: equal gaps from a start on, the last at the end of the prompt, at most `chunk` tokens."""
    found: dict[Shape, None] = {}
    for length, start, share, n in itertools.product(lengths(max_len, block_size), STARTS, SHARES, SEGMENTS):
        blocks, first = length // block_size, int(start * length) // block_size
        each = int(share * blocks) // n
        # Gaps are apart: a resident block at least stands between two of them.
        between = (blocks - first - n * each) // (n - 1) if n > 1 else 0
        if each < 1 or n * each * block_size > chunk or (n > 1 and between < 1):
            continue
        begins = [first + i * (each + between) for i in range(n - 1)] + [blocks - each]
        found[Shape(tuple((b * block_size, (b + each) * block_size) for b in begins))] = None
    return list(found)


def phases(points: int, max_len: int, chunk: int, block_size: int, seed: int = 1) -> list[Phase]:
    """`points` shapes of the grid, half of them without decodes beside, the rest spread over the decodes.

    A tenth of the steps beside decodes is of the decodes alone.
    """
    rng = random.Random(seed)
    grid = shapes(max_len, chunk, block_size)
    beside = [(count, min(context, max_len // 2)) for count, context in DECODES]
    each = points // 2 // (len(beside) - 1)
    result = []
    for count, context in beside:
        n = each if count else points - each * (len(beside) - 1)
        alone = -(-n // 10) if count else 0
        chosen = [rng.sample(grid, min(n - alone, len(grid))), [Shape(())] * alone]
        result.append(Phase(count, context, tuple(itertools.chain(*chosen))))
    return result
