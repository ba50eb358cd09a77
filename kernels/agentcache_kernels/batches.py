"""Batches of given segments over a random paged cache: what is tuned and timed on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = list[tuple[int, int]]
"""The segments [a, b) that a request computes."""


@dataclass(frozen=True)
class Batch:
    """Arguments of `msa_attention`, by their names."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    positions: Tensor
    cu_seqlens_q: Tensor
    block_table: Tensor
    scale: float

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    @property
    def pairs(self) -> int:
        """Query-key pairs a head must look at."""
        return int((self.positions.long() + 1).sum())

    @property
    def flops(self) -> int:
        """Useful floating-point operations: two products of d for each pair and query head."""
        heads, d = map(int, self.q.shape[1:])
        return 4 * self.pairs * heads * d

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values up to each request's last position, read once."""
        ends = self.positions[self.cu_seqlens_q[1:].long() - 1].long() + 1
        kv_heads, d = self.k_cache.shape[2:]
        return int(ends.sum() * 2 * kv_heads * d * self.k_cache.element_size())


def make(
    rows: list[Row], *, heads: int, kv_heads: int, d: int, page: int, dtype: torch.dtype, device: str = "cuda"
) -> Batch:
    """A batch of these rows; blocks lie at random places of the cache, drawn from one seed."""
    draw = torch.Generator().manual_seed(0)
    widths = [-(-row[-1][1] // page) for row in rows]
    blocks = sum(widths)
    places = torch.randperm(blocks, generator=draw).int()
    table = torch.zeros((len(rows), max(widths)), dtype=torch.int32)
    for request, own in enumerate(places.split(widths)):
        table[request, : len(own)] = own
    positions = torch.cat([torch.arange(a, b) for row in rows for a, b in row])
    counts = torch.tensor([0, *(sum(b - a for a, b in row) for row in rows)])
    k_cache, v_cache = torch.randn((2, blocks, page, kv_heads, d), dtype=dtype, device=device)
    return Batch(
        torch.randn((len(positions), heads, d), dtype=dtype, device=device),
        k_cache,
        v_cache,
        positions.to(device),
        counts.cumsum(0).int().to(device),
        table.to(device),
        d**-0.5,
    )


def unpacked(batch: Batch) -> Batch:
    """The same work as virtual sequences: each segment a request of its own, with a copy of the block table."""
    starts, positions = batch.cu_seqlens_q.long(), batch.positions
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[1:] = positions[1:] != positions[:-1] + 1
    begins[starts[:-1]] = True
    first = begins.nonzero().flatten()
    request = torch.searchsorted(starts, first, right=True) - 1
    cu = torch.cat([first, starts[-1:]]).int()
    table = batch.block_table[request].contiguous()
    return Batch(batch.q, batch.k_cache, batch.v_cache, positions, cu, table, batch.scale)
