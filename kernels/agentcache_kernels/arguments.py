"""What the kernels can be given: each argument of the call against its shape, dtype, device, layout and range."""

import math

import torch
from torch import Tensor

from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.plan import TilePlan

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HEAD_DIMS = (16, 32, 64, 80, 96, 128, 192, 256)
BLOCK_SIZES = (16, 32, 64, 128)
MAX_GROUP = 128
MOST_INT32 = 2**31 - 1


def check_arguments(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor,
    cu_seqlens_q: Tensor,
    block_table: Tensor,
    out: Tensor | None,
    lse: Tensor | None,
    scale: float,
    soft_cap: float | None,
    window: int | None,
) -> None:
    """Raise `ArgumentError` for the first that cannot be, without waiting for the device."""
    _check_sizes(q, k_cache, block_table)
    tokens, heads, d = q.shape
    expected: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
        ("k_cache", k_cache, (*k_cache.shape[:3], d), q.dtype),
        ("v_cache", v_cache, tuple(k_cache.shape), q.dtype),
        ("positions", positions, (tokens,), positions.dtype),
        ("cu_seqlens_q", cu_seqlens_q, (block_table.shape[0] + 1,), torch.int32),
        ("block_table", block_table, tuple(block_table.shape), torch.int32),
        ("out", out, tuple(q.shape), q.dtype),
        ("lse", lse, (tokens, heads), torch.float32),
    ]
    for name, tensor, shape, dtype in expected:
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ArgumentError(name, f"{tensor.dtype} {[*tensor.shape]}", f"{dtype} {[*shape]}")
        if tensor.device != q.device:
            raise ArgumentError(f"{name}.device", tensor.device, f"{q.device}, as of q")
    _check_strides(q, k_cache, v_cache, positions, cu_seqlens_q, out, lse)
    _check_numbers(scale, soft_cap, window)


def _check_sizes(q: Tensor, k_cache: Tensor, block_table: Tensor) -> None:
    if q.dim() != 3 or k_cache.dim() != 4:
        raise ArgumentError("(q, k_cache).dim()", (q.dim(), k_cache.dim()), "(3, 4)")
    _, heads, d = q.shape
    kv_heads = k_cache.shape[2]
    if q.dtype not in DTYPES:
        raise ArgumentError("q.dtype", q.dtype, "float16, bfloat16 or float32")
    if d not in HEAD_DIMS:
        raise ArgumentError("head size", d, f"one of {HEAD_DIMS}")
    if k_cache.shape[1] not in BLOCK_SIZES:
        raise ArgumentError("block size", k_cache.shape[1], f"one of {BLOCK_SIZES}")
    if not kv_heads or heads % kv_heads or not 1 <= heads // kv_heads <= MAX_GROUP:
        raise ArgumentError("q_heads / kv_heads", f"{heads} / {kv_heads}", f"a whole number up to {MAX_GROUP}")
    if block_table.dim() != 2 or block_table.dtype != torch.int32 or block_table.stride(1) != 1:
        raise ArgumentError(
            "block_table", f"{block_table.dtype} {[*block_table.shape]}", "int32 [requests, max_blocks], rows dense"
        )


def _check_strides(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor | None,
    lse: Tensor | None,
) -> None:
    d = q.shape[2]
    for name, tensor in (("positions", positions), ("cu_seqlens_q", cu_seqlens_q), ("lse", lse)):
        if tensor is not None and not tensor.is_contiguous():
            raise ArgumentError(f"{name}.stride()", tensor.stride(), "contiguous")
    for name, tensor in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache), ("out", out)):
        # The only offset that a kernel works out in 32 bits: d is the innermost dimension wherever it is fast.
        if tensor is not None and (d - 1) * tensor.stride(-1) > MOST_INT32:
            raise ArgumentError(
                f"{name}.stride(-1)", tensor.stride(-1), f"at most {MOST_INT32 // (d - 1)} at head size {d}"
            )
    if out is not None and any(step == 0 and size > 1 for step, size in zip(out.stride(), out.shape, strict=True)):
        raise ArgumentError("out.stride()", out.stride(), "no 0: every element must have a place of its own")


def _check_numbers(scale: float, soft_cap: float | None, window: int | None) -> None:
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ArgumentError("scale", scale, "a finite number")
    if soft_cap is not None and not (isinstance(soft_cap, int | float) and 1e-6 <= soft_cap < math.inf):
        raise ArgumentError("soft_cap", soft_cap, "1e-6 or more and finite, or None")
    if window is not None and not (type(window) is int and 1 <= window <= MOST_INT32):
        raise ArgumentError("window", window, f"a whole number from 1 to {MOST_INT32}, or None")


def check_plan(plan: TilePlan, tokens: int, requests: int, tile_tokens: int, q: Tensor) -> None:
    made_for = (plan.tokens, plan.requests, plan.tile_tokens, plan.fields.device)
    if made_for != (tokens, requests, tile_tokens, q.device):
        raise ArgumentError(
            "plan", f"for {made_for}", f"{(tokens, requests, tile_tokens, q.device)} (tokens, requests, tile, device)"
        )


def check_blocks(positions: Tensor, cu_seqlens_q: Tensor, table: Tensor, blocks: int, page: int) -> None:
    """Every block up to each request's last position must exist. Waits for the device."""
    starts = cu_seqlens_q.long()
    if not positions.shape[0] or not table.shape[0]:
        return
    last = positions[(starts[1:] - 1).clamp(min=0)].long()
    needed = torch.where(starts.diff() > 0, last // page + 1, 0)
    most = int(needed.max())
    if most > table.shape[1]:
        raise ArgumentError("block_table", f"{table.shape[1]} blocks wide", f"{most}, as the positions need")
    used = torch.arange(table.shape[1], device=table.device)[None, :] < needed[:, None]
    wrong = used & ((table < 0) | (table >= blocks))
    if bool(wrong.any()):
        request, index = (int(i) for i in wrong.nonzero()[0])
        raise ArgumentError(f"block_table[{request}, {index}]", int(table[request, index]), f"0 to {blocks - 1}")
