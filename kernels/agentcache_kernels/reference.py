"""Multi-segment attention in plain torch, one query row at a time: slow, obvious, and the truth for every test."""

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    positions: Tensor,
    cu_seqlens_q: Tensor,
    block_table: Tensor,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """softmax(q_p K[0..p]^T * scale) V[0..p] for each token at position p, computed and returned in `dtype`.

    Shapes as in `agentcache_kernels.msa.msa_attention`. Returns the output [tokens, q_heads, d] and the natural
    log-sum-exp of the scores [tokens, q_heads].
    """
    out = torch.empty(q.shape, dtype=dtype)
    lse = torch.empty(q.shape[:2], dtype=dtype)
    page, group = k_cache.shape[1], q.shape[1] // k_cache.shape[2]
    for request in range(len(cu_seqlens_q) - 1):
        for token in range(int(cu_seqlens_q[request]), int(cu_seqlens_q[request + 1])):
            position = int(positions[token])
            first = 0 if window is None else max(0, position + 1 - window)
            seen = torch.arange(first, position + 1)
            blocks = block_table[request, seen // page].long()
            for head in range(q.shape[1]):
                keys = k_cache[blocks, seen % page, head // group].to(dtype)
                values = v_cache[blocks, seen % page, head // group].to(dtype)
                scores = keys @ q[token, head].to(dtype) * scale
                if soft_cap is not None:
                    scores = soft_cap * torch.tanh(scores / soft_cap)
                lse[token, head] = torch.logsumexp(scores, 0)
                out[token, head] = torch.exp(scores - lse[token, head]) @ values
    return out, lse
