"""The arithmetic of holes: which tokens of a request are computed next when some of its blocks are resident.

A request's *runs* are the token ranges [start, end) that are resident behind its first missing block, in order,
disjoint, block-aligned. Everything between them, and behind the last one, is a hole.
"""

from collections.abc import Callable, Iterable, Sequence

Run = tuple[int, int]

SEGMENTS = "agentcache_segments"
"""Attribute of vLLM's `SchedulerOutput`: request id -> its segments, for requests with more than one in the step."""


def runs_of(blocks: Iterable[int], block_size: int) -> list[Run]:
    """Join resident block indices (increasing) into runs of tokens."""
    runs: list[Run] = []
    for index in blocks:
        start = index * block_size
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + block_size)
        else:
            runs.append((start, start + block_size))
    return runs


def islands(runs: Sequence[Run], seconds: Callable[[int, int], float], least_s: float, max_segments: int) -> list[Run]:
    """The runs that are worth a segment more each: the others count as missing and are computed again.

    `seconds(start, end)` is what it takes to compute these tokens, so what a run saves; one that saves less than
    `least_s`, the price of a segment, is left out. With n runs a request is computed in n + 1 segments: over
    `max_segments`, those that save least go first, the foremost of equals.
    """
    saved = {run: value for run in runs if (value := seconds(*run)) >= least_s}
    while len(saved) > max(max_segments - 1, 0):
        del saved[min(saved, key=saved.__getitem__)]
    return list(saved)


def plan(runs: Sequence[Run], start: int, end: int, budget: int, max_segments: int) -> tuple[list[Run], int]:
    """Choose what to compute in this step: up to `budget` missing tokens of [start, end), in order.

    Returns at most `max_segments` segments and the frontier: the first position that is neither computed nor
    resident after the step. `start` is never inside a run.
    """
    segments: list[Run] = []
    position = start
    for run_start, run_end in (*runs, (end, end)):
        if run_end <= position and run_end < end:
            continue
        tokens = min(run_start - position, budget)
        if tokens > 0:
            segments.append((position, position + tokens))
            budget -= tokens
            position += tokens
        if position < run_start:
            break
        position = run_end
        if budget == 0 or len(segments) == max_segments:
            break
    return segments, position
