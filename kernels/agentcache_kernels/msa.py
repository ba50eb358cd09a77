"""Attention of rows at any positions of their requests over a paged cache: the public call."""

import os
from dataclasses import replace

import torch
import triton
from torch import Tensor

from agentcache_kernels.arguments import check_arguments, check_blocks, check_plan
from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.forward import INTERPRETED, attend, join
from agentcache_kernels.plan import SPLIT_KEYS, TilePlan, check_batch, plan_tiles, splits_for, tiles_bound
from agentcache_kernels.tables import Config, table_for

JOIN_ROWS = 16
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
    check_arguments(q, k_cache, v_cache, positions, cu_seqlens_q, block_table, out, lse, scale, soft_cap, window)
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
    check_plan(plan, tokens, requests, config.block_m // group_pad, q)
    if check:
        check_blocks(positions, cu_seqlens_q, block_table, blocks, page)

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
