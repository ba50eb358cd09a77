"""Make the table of tile shapes for the GPU at hand: try what fits, keep the fastest that agrees with the reference."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
import triton

from agentcache_kernels.batches import Row, make
from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.msa import msa_attention, plan_for
from agentcache_kernels.tables import FOLDER, SCHEMA, Config, Table, slug
from agentcache_kernels.timing import median, seconds

HEADS, KV_HEADS, PAGE = 32, 8, 16

CASES: dict[int, list[Row]] = {
    16: [[(16_383, 16_384)] for _ in range(16)],
    64: [[(16_000, 16_016)] for _ in range(32)],
    1 << 20: [[(4096, 6144), (14_336, 16_384)]],
}
"""Rows a request (the bucket of the table) and the batch that is timed for it: decodes, one short hole, long ones."""


def candidates(rows: int, element_bytes: int) -> Iterator[Config]:
    """Tile shapes to try for a bucket; those that do not fit the device fail to launch and are passed over."""
    heights = {16: (16,), 64: (16, 32, 64)}.get(rows, (32, 64, 128))
    for m, n, warps, stages in product(heights, (16, 32, 64, 128), (4, 8), (2, 3, 4)):
        if element_bytes == 2 or m * n <= 1024:
            yield Config(m, n, warps, stages)


def tune(on_progress: Callable[[str], None]) -> Path:
    """Time every candidate on every bucket and write `configs/<gpu>.json`. Raises `ArgumentError` without a GPU."""
    if not torch.cuda.is_available():
        raise ArgumentError("GPU", "not there", "one to time on (the tables that are there stay as they are)")
    name = torch.cuda.get_device_name()
    entries = []
    for (dtype, d), (rows, case) in product(product((torch.bfloat16, torch.float32), (64, 128, 256)), CASES.items()):
        batch = make(case, heads=HEADS, kv_heads=KV_HEADS, d=d, page=PAGE, dtype=dtype)
        fallback = Table(FOLDER / "default.json").find(dtype.itemsize, d, rows)
        truth = _run(batch, fallback)().float()
        limit = 2e-2 if dtype == torch.bfloat16 else 1e-4
        times: dict[Config, float] = {}
        for config in {fallback, *candidates(rows, dtype.itemsize)}:
            try:
                call = _run(batch, config)
                if float((call().float() - truth).norm() / truth.norm()) < limit:
                    times[config] = median(seconds(call, repeats=7))
            except triton.runtime.errors.OutOfResources:
                continue
        best = min(times, key=times.__getitem__)
        on_progress(f"{dtype} d {d}, {rows} rows: {best}, {times[best] * 1e6:.0f} us ({len(times)} shapes fit)")
        entries.append(
            {"element_bytes": dtype.itemsize, "d_pad": d, "rows": rows}
            | {"block_m": best.block_m, "block_n": best.block_n, "warps": best.warps, "stages": best.stages}
        )
    path = FOLDER / f"{slug(name)}.json"
    head = {"schema": SCHEMA, "device": name, "source": f"agentcache tune, triton {triton.__version__}"}
    path.write_text(json.dumps(head | {"entries": entries}, indent=1) + "\n", encoding="utf-8")
    return path


def _run(batch: object, config: Config) -> Callable[[], torch.Tensor]:
    arguments = vars(batch)
    shape = arguments["q"], arguments["k_cache"].shape[2]
    plan = plan_for(*shape, arguments["positions"], arguments["cu_seqlens_q"], config=config)
    return lambda: msa_attention(**arguments, plan=plan, config=config)
