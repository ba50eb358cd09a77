"""What is timed: the batches, what each is compared with, and the goal."""

from dataclasses import dataclass

from agentcache_kernels.batches import Row

SHAPES = {"llama-8b": (32, 8, 128), "llama-70b": (64, 8, 128)}
"""Query heads, KV heads, head size."""

PAGES = (16, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """A batch and its goal: `ratio` times the speed of the best of `against`, or that share of a ceiling."""

    name: str
    rows: list[Row]
    against: tuple[str, ...]
    ratio: float


def holes(context: int, count: int, length: int) -> Row:
    """`count` holes of `length` tokens, evenly spread, the last one at the end."""
    stride = context // count
    return [((i + 1) * stride - length, (i + 1) * stride) for i in range(count)]


K = 1024
CASES = [
    *(
        Case(
            f"one hole of {n}K in {c}K",
            [[(c * K // 2, c * K // 2 + n * K)]],
            ("unpacked", "gathered sdpa", "flex"),
            1.0,
        )
        for c in (32, 128)
        for n in (1, 4, 16)
    ),
    *(
        Case(f"{n} holes of {length} in 32K", [holes(32 * K, n, length)], ("unpacked",), 2.0)
        for n in (8, 64)
        for length in (16, 64)
    ),
    *(Case(f"prefill {n}K", [[(0, n * K)]], ("sdpa",), 0.8) for n in (2, 8, 32)),
    *(
        Case(f"decode {n} at {c}K", [[(c * K - 1, c * K)]] * n, ("copy ceiling",), 0.8)
        for n, c in ((1, 8), (1, 128), (16, 32), (64, 8), (256, 8))
    ),
    Case("64 decodes and a hole of 2K", [[(8 * K - 1, 8 * K)]] * 64 + [[(14 * K, 16 * K)]], ("two launches",), 1.15),
]
