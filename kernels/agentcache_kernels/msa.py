"""Attention of rows at any positions of their requests over a paged cache: the public call."""

import math
import os
from dataclasses import replace

import torch
import triton
from torch import Tensor

from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.forward import INTERPRETED, attend, join
from agentcache_kernels.plan import SPLIT_KEYS, TilePlan, check_batch, plan_tiles, splits_for, tiles_bound
from agentcache_kernels.tables import Config, table_for

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HEAD_DIMS = (16, 32, 64, 80, 96, 128, 192, 256)
BLOCK_SIZES = (16, 32, 64, 128)
MAX_GROUP = 128
JOIN_ROWS = 16
MOST_INT32 = 2**31 - 1
DEBUG = os.environ.get("AGENTCACHE_KERNELS_CHECK") == "1"
"""Whether every call compares values, also where a plan is given. Slow: each call waits for the device."""


def msa_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    positions: Tensor,
    cu_seqlens_q: Tensor,
    block_table: Tensor,
    scale: float,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    soft_cap: float | None = None,
    window: int | None = None,
    plan: TilePlan | None = None,
    config: Config | None = None,
    check: bool | None = None,
) -> Tensor:
    """out(t) = softmax(q_t K[0..p]^T * scale) V[0..p] for each token t, at position p of its request.

    Shapes and units:
        q              [tokens, q_heads, d], fp16, bf16 or fp32
        k_cache        [blocks, block_size, kv_heads, d] in q's dtype, any strides; v_cache likewise
        positions      int32 or int64 [tokens], strictly increasing inside a request
        cu_seqlens_q   int32 [requests + 1]: request r owns tokens cu_seqlens_q[r] to cu_seqlens_q[r + 1]
        block_table    int32 [requests, max_blocks]: block i of request r holds positions i * block_size and on
        out            [tokens, q_heads, d] to write into, in q's dtype; made if not given
        lse            float32 [tokens, q_heads] contiguous, filled with the natural log-sum-exp if given
        soft_cap       scores s become soft_cap * tanh(s / soft_cap)
        window         a row sees only the last `window` positions up to its own
        plan           of `plan_for`, made once a step; without it the call makes one

    Every key that a row sees must be in the cache: resident, or written before this call. Sums are in fp32.
    Shapes, dtypes and devices are always checked. `check` also compares values (order of positions, ids in the block
    table), for which it waits for the device; its default is to do so exactly when no plan is given, or always under
    AGENTCACHE_KERNELS_CHECK=1. Raises `ArgumentError` before anything is launched.
    """
    _check_shapes(q, k_cache, v_cache, positions, cu_seqlens_q, block_table, out, lse, scale, soft_cap, window)
    if q.device.type != ("cpu" if INTERPRETED else "cuda"):
        raise ArgumentError("q.device", q.device, "cpu under TRITON_INTERPRET=1, a GPU otherwise")
    check = DEBUG or plan is None if check is None else check
    check_batch(positions, cu_seqlens_q, check)
    tokens, heads, d = q.shape
    blocks, page, kv_heads, _ = k_cache.shape
    requests, group = block_table.shape[0], heads // kv_heads
    group_pad, d_pad = triton.next_power_of_2(group), triton.next_power_of_2(d)
    config = config or config_for(q, kv_heads, tokens / max(1, requests))
    config = replace(config, block_m=max(config.block_m, group_pad))
    if plan is None:
        plan = plan_for(q, kv_heads, positions, cu_seqlens_q, config=config, check=False)
    _check_plan(plan, tokens, requests, config.block_m // group_pad, q)
    if check:
        _check_blocks(positions, cu_seqlens_q, block_table, blocks, page)

    out = torch.empty_like(q) if out is None else out
    if not plan.tiles:
        return out
    # A kernel takes pointers, never None: what it does not use is given as something that exists.
    parts = lses = out
    if plan.max_splits > 1:
        parts = torch.empty((plan.max_splits, tokens, heads, d), dtype=torch.float32, device=q.device)
        lses = torch.empty((plan.max_splits, tokens, heads), dtype=torch.float32, device=q.device)
    shape = {"HEADS": heads, "GROUP": group, "GROUP_PAD": group_pad, "HAS_LSE": lse is not None, "D": d, "D_PAD": d_pad}
    attend[(plan.tiles, kv_heads, plan.max_splits)](
        q, k_cache, v_cache, out, out if lse is None else lse, parts, lses, positions, block_table, plan.fields,
        scale, soft_cap or 0.0, window or 0, plan.tiles, tokens,
        *q.stride(), *out.stride(), *k_cache.stride(), *v_cache.stride(), block_table.stride(0),
        HAS_CAP=bool(soft_cap), HAS_WINDOW=window is not None, CAN_SPLIT=plan.max_splits > 1, PAGE=page,
        WIDEN=INTERPRETED and q.dtype == torch.bfloat16,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, num_warps=config.warps, num_stages=config.stages, **shape,
    )  # fmt: skip
    if plan.max_splits > 1:
        join[(plan.tiles, kv_heads, triton.cdiv(config.block_m, JOIN_ROWS))](
            out, out if lse is None else lse, parts, lses, plan.fields, plan.tiles, tokens, *out.stride(),
            ROWS=JOIN_ROWS, num_warps=4, **shape,
        )  # fmt: skip
    return out


def config_for(q: Tensor, kv_heads: int, tokens_a_request: float) -> Config:
    """The tile shape from this device's table, for requests of about so many tokens in the step."""
    d_pad = triton.next_power_of_2(q.shape[2])
    return table_for(q.device).find(q.element_size(), d_pad, tokens_a_request * q.shape[1] / kv_heads)


def plan_for(
    q: Tensor,
    kv_heads: int,
    positions: Tensor,
    cu_seqlens_q: Tensor,
    *,
    config: Config,
    check: bool = False,
    max_splits: int | None = None,
    split_keys: int = SPLIT_KEYS,
) -> TilePlan:
    """The plan for layers of this head shape; unless told, split so far that the device is busy.

    Only shapes decide how much is launched, so a step of the same shapes may be replayed from a CUDA graph after the
    plan's `fields` have been copied into the captured ones.
    """
    group_pad = triton.next_power_of_2(q.shape[1] // kv_heads)
    tile_tokens = max(1, config.block_m // group_pad)
    if max_splits is None:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
        tiles = tiles_bound(positions.shape[0], cu_seqlens_q.shape[0] - 1, tile_tokens)
        max_splits = splits_for(tiles, kv_heads, processors)
    return plan_tiles(
        positions, cu_seqlens_q, tile_tokens=tile_tokens, max_splits=max_splits, split_keys=split_keys, check=check
    )


def _check_shapes(
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
    if q.dim() != 3 or k_cache.dim() != 4:
        raise ArgumentError("(q, k_cache).dim()", (q.dim(), k_cache.dim()), "(3, 4)")
    tokens, heads, d = q.shape
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
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ArgumentError("scale", scale, "a finite number")
    if soft_cap is not None and not (isinstance(soft_cap, int | float) and 1e-6 <= soft_cap < math.inf):
        raise ArgumentError("soft_cap", soft_cap, "1e-6 or more and finite, or None")
    if window is not None and not (type(window) is int and 1 <= window <= MOST_INT32):
        raise ArgumentError("window", window, f"a whole number from 1 to {MOST_INT32}, or None")


def _check_plan(plan: TilePlan, tokens: int, requests: int, tile_tokens: int, q: Tensor) -> None:
    made_for = (plan.tokens, plan.requests, plan.tile_tokens, plan.fields.device)
    if made_for != (tokens, requests, tile_tokens, q.device):
        raise ArgumentError(
            "plan", f"for {made_for}", f"{(tokens, requests, tile_tokens, q.device)} (tokens, requests, tile, device)"
        )


def _check_blocks(positions: Tensor, cu_seqlens_q: Tensor, table: Tensor, blocks: int, page: int) -> None:
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
