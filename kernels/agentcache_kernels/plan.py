"""The tile plan: which query rows share a tile. Built once a step, used by every layer, without waiting for the device.

A tile holds consecutive tokens of one request, whatever segments they belong to: their positions increase, so the
first is the smallest and the last bounds the keys to stream. How many tiles there are is known to the device alone;
the host launches the most there can be, and the rest find that they have no tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from agentcache_kernels.errors import ArgumentError

REQUEST, START, TOKENS, LOW, KEYS, SPLITS = range(6)
"""Rows of `TilePlan.fields`."""

SPLIT_KEYS = 256
"""A tile is split no finer than this many keys: below it the second pass costs more than it brings."""

MAX_SPLITS = 64


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Tiles of a step, those with most keys first, so that the last to start are the shortest.

    `fields` is int32 [6, tiles]: the request, its first token in the batch, the number of tokens (0: not used), the
    smallest position, one more than the largest position, and the number of ranges its keys are split into.
    """

    fields: Tensor
    tile_tokens: int
    max_splits: int
    tokens: int
    requests: int

    @property
    def tiles(self) -> int:
        """Programs to launch: an upper bound of the tiles in use."""
        return int(self.fields.shape[1])


def tiles_bound(tokens: int, requests: int, tile_tokens: int) -> int:
    """The most tiles that this many tokens of this many requests can need, from shapes alone.

    The sum of ceil(n_r / t) over requests is at most floor((sum n_r + requests * (t - 1)) / t).
    """
    return (tokens + requests * (tile_tokens - 1)) // tile_tokens


def splits_for(tiles: int, kv_heads: int, processors: int) -> int:
    """Ranges of keys a tile, so that two programs a processor run where the tiles alone are too few."""
    return max(1, min(MAX_SPLITS, -(-2 * processors // max(1, tiles * kv_heads))))


def plan_tiles(
    positions: Tensor,
    cu_seqlens_q: Tensor,
    *,
    tile_tokens: int,
    max_splits: int = 1,
    split_keys: int = SPLIT_KEYS,
    check: bool = True,
) -> TilePlan:
    """Pack the tokens of a batch into tiles of at most `tile_tokens` tokens, on the device of `positions`.

    positions: int [tokens], strictly increasing inside a request; cu_seqlens_q: int32 [requests + 1]. A request may
    have no tokens. `check` compares the values too, which waits for the device once; without it nothing does. Raises
    `ArgumentError`.
    """
    check_batch(positions, cu_seqlens_q, check)
    if tile_tokens < 1 or not 1 <= max_splits <= MAX_SPLITS:
        raise ArgumentError("(tile_tokens, max_splits)", (tile_tokens, max_splits), f">= 1 and <= {MAX_SPLITS}")
    tokens, requests = positions.shape[0], cu_seqlens_q.shape[0] - 1
    tiles = tiles_bound(tokens, requests, tile_tokens) if tokens and requests else 0
    if not tiles:
        return TilePlan(cu_seqlens_q.new_empty((6, 0)), tile_tokens, max_splits, tokens, requests)
    starts = cu_seqlens_q.long()
    needed = (starts.diff() + (tile_tokens - 1)) // tile_tokens
    ends = needed.cumsum(0)
    tile = torch.arange(tiles, device=positions.device)
    request = torch.searchsorted(ends, tile, right=True)
    used = request < requests
    request = request.clamp(max=requests - 1)
    start = starts[request] + (tile - ends[request] + needed[request]) * tile_tokens
    count = torch.where(used, (starts[request + 1] - start).clamp(max=tile_tokens), 0)
    low = torch.where(used, positions[start.clamp(max=tokens - 1)].long(), 0)
    keys = torch.where(used, positions[(start + count - 1).clamp(0, tokens - 1)].long() + 1, 0)
    splits = ((keys + (split_keys - 1)) // split_keys).clamp(1, max_splits)
    fields = torch.stack([request, start, count, low, keys, splits])
    heaviest_first = torch.argsort(keys, descending=True, stable=True)
    return TilePlan(fields[:, heaviest_first].int(), tile_tokens, max_splits, tokens, requests)


def check_batch(positions: Tensor, cu_seqlens_q: Tensor, values: bool) -> None:
    """Raise `ArgumentError` unless these describe a batch; looks at values only if told, since that waits."""
    if positions.dim() != 1 or positions.dtype not in (torch.int32, torch.int64):
        raise ArgumentError("positions", f"{positions.dtype} {[*positions.shape]}", "int32 or int64 [tokens]")
    if cu_seqlens_q.dim() != 1 or cu_seqlens_q.dtype != torch.int32 or not cu_seqlens_q.shape[0]:
        raise ArgumentError("cu_seqlens_q", f"{cu_seqlens_q.dtype} {[*cu_seqlens_q.shape]}", "int32 [requests + 1]")
    if positions.device != cu_seqlens_q.device:
        raise ArgumentError("cu_seqlens_q.device", cu_seqlens_q.device, f"{positions.device}, as of positions")
    if positions.shape[0] >= 2**31:
        raise ArgumentError("tokens", positions.shape[0], "less than 2**31")
    if not values:
        return
    starts = cu_seqlens_q.tolist()
    if starts[0] != 0 or starts[-1] != positions.shape[0] or sorted(starts) != starts:
        raise ArgumentError("cu_seqlens_q", _few(starts), f"0 <= ... <= {positions.shape[0]}, the number of tokens")
    if not positions.shape[0]:
        return
    follows = torch.ones_like(positions, dtype=torch.bool)
    follows[cu_seqlens_q[:-1].long().clamp(max=positions.shape[0] - 1)] = False
    wrong = (positions[1:] <= positions[:-1]) & follows[1:]
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0]) + 1
        raise ArgumentError(
            f"positions[{at}]", int(positions[at]), f"more than {int(positions[at - 1])}, the one before in its request"
        )
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= 2**31 - 1024:
        raise ArgumentError("positions", f"in [{low}, {high}]", "0 to 2**31 - 1024")


def _few(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:4]))}, ..., {values[-1]}]"
