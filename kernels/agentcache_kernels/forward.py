"""The two kernels: one streams keys and values past a tile of query rows, the other joins what split tiles found.

A program owns a tile, one KV head and one range of keys. Its rows are the tile's tokens times the query heads that
share the KV head (padded to a power of two), each with its own position. Scores are in base 2 throughout.
"""

import triton
import triton.language as tl

from agentcache_kernels.plan import KEYS, LOW, REQUEST, SPLITS, START, TOKENS

_REQUEST, _START, _TOKENS = tl.constexpr(REQUEST), tl.constexpr(START), tl.constexpr(TOKENS)
_LOW, _KEYS, _SPLITS = tl.constexpr(LOW), tl.constexpr(KEYS), tl.constexpr(SPLITS)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(-1.0e30)
"""The score of a key that a row may not see. Finite, so that differences of it are numbers."""


@triton.jit
def _stream(
    acc,
    best,
    total,
    q,
    pos,
    first,
    last,
    keys,
    table,
    k_head,
    v_head,
    k_block,
    k_slot,
    k_d,
    v_block,
    v_slot,
    v_d,
    scale,
    soft_cap,
    window,
    HAS_CAP: tl.constexpr,
    WINDOWED: tl.constexpr,
    MASKED: tl.constexpr,
    PAGE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Online softmax over keys [first, last), `first` a multiple of BLOCK_N.

    MASKED where rows do not see them all, WINDOWED too where some key is behind the window of a row.
    """
    lane = tl.arange(0, BLOCK_N)
    d = tl.arange(0, D_PAD)
    for start in range(first, last, BLOCK_N):
        key = start + lane
        known = key < keys
        if MASKED:
            seen = key[None, :] <= pos[:, None]
            if WINDOWED:
                back = pos[:, None] - key[None, :]
                seen = (back >= 0) & (back < window)
                known = known & (tl.max(seen.to(tl.int32), 0) > 0)  # behind all windows blocks may be gone
            block = tl.load(table + key // PAGE, mask=known, other=0).to(tl.int64)
        else:
            block = tl.load(table + key // PAGE).to(tl.int64)
        slot = (key % PAGE).to(tl.int64)
        k_at = k_head + (block * k_block + slot * k_slot)[None, :] + (d * k_d)[:, None]
        v_at = v_head + (block * v_block + slot * v_slot)[:, None] + (d * v_d)[None, :]
        # Slots that no row sees may hold anything, NaN too, and zero times NaN is NaN: they are never read.
        if MASKED or D != D_PAD:
            k = tl.load(k_at, mask=known[None, :] & (d < D)[:, None], other=0.0)
            v = tl.load(v_at, mask=known[:, None] & (d < D)[None, :], other=0.0)
        else:
            k = tl.load(k_at)
            v = tl.load(v_at)
        if WIDEN:
            scores = tl.dot(q.to(tl.float32), k.to(tl.float32), input_precision="ieee") * scale
        else:
            scores = tl.dot(q, k, input_precision="ieee") * scale
        if HAS_CAP:
            # tanh(x) = 1 - 2 / (exp(2 x) + 1)
            scores = soft_cap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2_E / soft_cap)) + 1.0))
        scores = scores * LOG2_E
        if MASKED:
            scores = tl.where(seen, scores, NEVER)
        now_best = tl.maximum(best, tl.max(scores, 1))
        p = tl.exp2(scores - now_best[:, None])
        if MASKED:
            p = tl.where(seen, p, 0.0)  # a row that has seen no key yet has the best score NEVER
        fade = tl.exp2(best - now_best)
        total = total * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        weights = p.to(v.dtype)
        if WIDEN:
            acc = tl.dot(weights.to(tl.float32), v.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(weights, v, acc, input_precision="ieee")
        best = now_best
    return acc, best, total


@triton.jit
def attend(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    part_out_ptr,
    part_lse_ptr,
    positions_ptr,
    table_ptr,
    plan_ptr,
    scale,
    soft_cap,
    window,
    tiles,
    all_tokens,
    q_token,
    q_head,
    q_d,
    out_token,
    out_head,
    out_d,
    k_block,
    k_slot,
    k_head,
    k_d,
    v_block,
    v_slot,
    v_head,
    v_d,
    table_row,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_LSE: tl.constexpr,
    CAN_SPLIT: tl.constexpr,
    PAGE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDEN: tl.constexpr = False,
):
    """Grid (tiles, kv_heads, splits). Offsets into q, the caches and the results are 64 bits wide."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    plan = plan_ptr + tile
    count = tl.load(plan + _TOKENS * tiles)
    splits = tl.load(plan + _SPLITS * tiles)
    if (count > 0) & (split < splits):
        request = tl.load(plan + _REQUEST * tiles).to(tl.int64)
        start = tl.load(plan + _START * tiles).to(tl.int64)
        low = tl.load(plan + _LOW * tiles)
        keys = tl.load(plan + _KEYS * tiles)

        row = tl.arange(0, BLOCK_M)
        member = row % GROUP_PAD
        valid = (row // GROUP_PAD < count) & (member < GROUP)
        token = start + row // GROUP_PAD
        head = kv_head * GROUP + member
        pos = tl.load(positions_ptr + token, mask=valid, other=-1).to(tl.int32)  # rows of nobody see nothing
        d = tl.arange(0, D_PAD)
        shown = valid[:, None] & (d < D)[None, :]
        q = tl.load(q_ptr + (token * q_token + head * q_head)[:, None] + (d * q_d)[None, :], mask=shown, other=0.0)

        # Keys [begin, keys) are needed by some row; those in [clear, full) are seen by all of them.
        if HAS_WINDOW:
            begin = tl.maximum(low + 1 - window, 0) // BLOCK_N * BLOCK_N
            clear = tl.cdiv(tl.maximum(keys - window, 0), BLOCK_N) * BLOCK_N
        else:
            begin = 0
            clear = 0
        full = (low + 1) // BLOCK_N * BLOCK_N
        end = keys
        if CAN_SPLIT:
            share = tl.cdiv(tl.cdiv(keys - begin, splits), BLOCK_N) * BLOCK_N
            begin = begin + split * share
            end = tl.minimum(begin + share, keys)
        clear = tl.minimum(tl.maximum(clear, begin), end)
        full = tl.maximum(tl.minimum(full, end), clear)

        best = tl.full([BLOCK_M], NEVER, tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
        table = table_ptr + request * table_row
        k_at = k_ptr + kv_head * k_head
        v_at = v_ptr + kv_head * v_head
        if HAS_WINDOW:
            acc, best, total = _stream(
                acc, best, total, q, pos, begin, clear, keys, table, k_at, v_at, k_block, k_slot, k_d, v_block,
                v_slot, v_d, scale, soft_cap, window, HAS_CAP, True, True, PAGE, D, D_PAD, BLOCK_N, WIDEN,
            )  # fmt: skip
        # From `clear` on no window has ended: the last row sees every key there.
        acc, best, total = _stream(
            acc, best, total, q, pos, clear, full, keys, table, k_at, v_at, k_block, k_slot, k_d, v_block,
            v_slot, v_d, scale, soft_cap, window, HAS_CAP, False, False, PAGE, D, D_PAD, BLOCK_N, WIDEN,
        )  # fmt: skip
        acc, best, total = _stream(
            acc, best, total, q, pos, full, end, keys, table, k_at, v_at, k_block, k_slot, k_d, v_block,
            v_slot, v_d, scale, soft_cap, window, HAS_CAP, False, True, PAGE, D, D_PAD, BLOCK_N, WIDEN,
        )  # fmt: skip

        found = total > 0.0  # in its range of keys a row of a split tile may have none
        acc = acc / tl.where(found, total, 1.0)[:, None]
        lse = tl.where(found, best + tl.log2(tl.where(found, total, 1.0)), float("-inf"))
        if CAN_SPLIT:  # noqa: SIM102  (known when compiled; the next is not)
            if splits > 1:
                part = (split.to(tl.int64) * all_tokens + token) * HEADS + head
                tl.store(part_lse_ptr + part, lse, mask=valid)
                tl.store(part_out_ptr + (part * D)[:, None] + d[None, :], acc, mask=shown)
        if splits == 1:
            at = out_ptr + (token * out_token + head * out_head)[:, None] + (d * out_d)[None, :]
            tl.store(at, acc.to(out_ptr.dtype.element_ty), mask=shown)
            if HAS_LSE:
                tl.store(lse_ptr + token * HEADS + head, lse * LN_2, mask=valid)


INTERPRETED = not isinstance(attend, triton.JITFunction)
"""Whether `TRITON_INTERPRET=1` was set: then kernels take CPU tensors. Its dot product misreads bf16: see WIDEN."""


@triton.jit
def join(
    out_ptr,
    lse_ptr,
    part_out_ptr,
    part_lse_ptr,
    plan_ptr,
    tiles,
    all_tokens,
    out_token,
    out_head,
    out_d,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HAS_LSE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Grid (tiles, kv_heads, BLOCK_M / ROWS): the parts of a split tile, each weighted by its share of the softmax."""
    plan = plan_ptr + tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    splits = tl.load(plan + _SPLITS * tiles)
    count = tl.load(plan + _TOKENS * tiles)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    member = row % GROUP_PAD
    valid = (row // GROUP_PAD < count) & (member < GROUP)
    if (splits > 1) & (count > 0):
        token = tl.load(plan + _START * tiles).to(tl.int64) + row // GROUP_PAD
        token_of_split = token
        head = kv_head * GROUP + member
        d = tl.arange(0, D_PAD)
        best = tl.full([ROWS], NEVER, tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, D_PAD], tl.float32)
        for _ in range(splits):
            part = token_of_split * HEADS + head
            lse = tl.load(part_lse_ptr + part, mask=valid, other=float("-inf"))
            found = lse > float("-inf")
            held = found[:, None] & (d < D)[None, :]
            values = tl.load(part_out_ptr + (part * D)[:, None] + d[None, :], mask=held, other=0.0)
            now_best = tl.maximum(best, tl.where(found, lse, NEVER))
            weight = tl.where(found, tl.exp2(lse - now_best), 0.0)
            fade = tl.exp2(best - now_best)
            acc = acc * fade[:, None] + values * weight[:, None]
            total = total * fade + weight
            best = now_best
            token_of_split += all_tokens
        total = tl.where(valid, total, 1.0)
        at = out_ptr + (token * out_token + head * out_head)[:, None] + (d * out_d)[None, :]
        shown = valid[:, None] & (d < D)[None, :]
        tl.store(at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=shown)
        if HAS_LSE:
            tl.store(lse_ptr + token * HEADS + head, (best + tl.log2(total)) * LN_2, mask=valid)
