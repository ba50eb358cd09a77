"""Times of kernels on a GPU: medians of single launches with a cold second-level cache."""

from collections.abc import Callable

import torch


def seconds(call: Callable[[], object], repeats: int = 20, warm: int = 3) -> list[float]:
    """Device seconds of each of `repeats` calls, sorted. 256 MiB are written before each, so that nothing is cached."""
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    for _ in range(warm):
        call()
    marks = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        marks.append((begin, end))
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) / 1000 for begin, end in marks)


def median(values: list[float]) -> float:
    return values[len(values) // 2]
