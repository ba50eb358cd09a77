"""A batch over a paged cache in which everything that must not be read is NaN."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agentcache_kernels.msa import msa_attention, plan_for
from agentcache_kernels.reference import attention
from agentcache_kernels.tables import Config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Row = list[tuple[int, int]]
"""The segments [a, b) that a request computes."""

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of the error's norm, relative to the reference's."""


@dataclass
class Batch:
    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    positions: Tensor
    cu_seqlens_q: Tensor
    block_table: Tensor
    scale: float

    def run(
        self,
        config: Config,
        max_splits: int = 1,
        split_keys: int = 16,
        soft_cap: float | None = None,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of the kernels, into memory that held NaN."""
        out = torch.full_like(self.q, float("nan"))
        lse = torch.full(self.q.shape[:2], float("nan"), device=DEVICE)
        plan = plan_for(
            self.q,
            self.k_cache.shape[2],
            self.positions,
            self.cu_seqlens_q,
            config=config,
            max_splits=max_splits,
            split_keys=split_keys,
        )
        extra = {"soft_cap": soft_cap, "window": window}
        msa_attention(**vars(self), out=out, lse=lse, plan=plan, config=config, check=True, **extra)  # type: ignore[arg-type]
        return out, lse

    def truth(self, soft_cap: float | None = None, window: int | None = None) -> tuple[Tensor, Tensor]:
        tensors = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        return attention(**tensors, soft_cap=soft_cap, window=window)


def make(
    rows: list[Row],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    d: int = 16,
    page: int = 16,
    dtype: torch.dtype = torch.float32,
    head_major: bool = False,
    seed: int = 0,
) -> Batch:
    """Blocks at random places; slots no row may see, and blocks no request owns, are NaN."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [row[-1][1] if row else 0 for row in rows]
    widths = [-(-length // page) for length in lengths]
    blocks = sum(widths) + 3
    shape = (blocks, kv_heads, page, 2 * d) if head_major else (blocks, page, kv_heads, 2 * d)
    cache = torch.full(shape, float("nan"))
    cache = cache.transpose(1, 2) if head_major else cache
    places = iter(torch.randperm(blocks, generator=draw).tolist())
    table = torch.full((len(rows), max([*widths, 1])), -1, dtype=torch.int32)
    for request, width in enumerate(widths):
        for index in range(width):
            block, used = next(places), min(page, lengths[request] - index * page)
            table[request, index] = block
            cache[block, :used] = torch.randn((used, kv_heads, 2 * d), generator=draw)
    counts = torch.tensor([0, *(sum(b - a for a, b in row) for row in rows)])
    positions = torch.tensor([p for row in rows for a, b in row for p in range(a, b)], dtype=torch.int64)
    caches = cache.to(DEVICE, dtype).split(d, dim=-1)
    return Batch(
        torch.randn((int(counts.sum()), heads, d), generator=draw).to(DEVICE, dtype),
        *caches,
        positions.to(DEVICE),
        counts.cumsum(0).int().to(DEVICE),
        table.to(DEVICE),
        d**-0.5,
    )


def error(got: Tensor, truth: Tensor) -> float:
    """Relative, by norm; NaN if there is one anywhere."""
    return float((got.cpu().double() - truth).norm() / truth.norm())
