"""A whole small transformer over a paged cache: rebuilding holes equals computing everything anew."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agentcache_kernels.msa import config_for, msa_attention, plan_for
from tests.kernels.gates.batch import DEVICE, Row

LAYERS, HEADS, KV_HEADS, D, PAGE, VOCAB = 3, 4, 2, 16, 16, 64
WIDTH = HEADS * D


class Model:
    """Pre-norm decoder with rotary positions; K/V of each layer live in its paged cache."""

    def __init__(self, blocks: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=draw) * shape[0] ** -0.5).to(DEVICE)

        self.embed, self.head = weight(VOCAB, WIDTH) * 8, weight(WIDTH, VOCAB)
        shapes = ((WIDTH, (HEADS + 2 * KV_HEADS) * D), (WIDTH, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH))
        self.layers = [[weight(*shape) for shape in shapes] for _ in range(LAYERS)]
        self.caches = [torch.full((2, blocks, PAGE, KV_HEADS, D), float("nan"), device=DEVICE) for _ in range(LAYERS)]

    def run(self, rows: list[Row], tokens: Tensor, table: Tensor) -> Tensor:
        """Logits of the rows' tokens: all of a layer's K/V is written before its attention runs."""
        positions = torch.tensor([p for row in rows for a, b in row for p in range(a, b)], device=DEVICE)
        counts = [sum(b - a for a, b in row) for row in rows]
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32, device=DEVICE)
        request = torch.repeat_interleave(torch.tensor(counts, device=DEVICE))
        block, slot = table[request, positions // PAGE].long(), positions % PAGE
        x = self.embed[tokens]
        plan = None
        for (qkv, o, up, down), cache in zip(self.layers, self.caches, strict=True):
            heads = (functional.rms_norm(x, (WIDTH,)) @ qkv).view(len(x), -1, D)
            q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
            q, k = rotated(q, positions), rotated(k, positions)
            cache[0, block, slot], cache[1, block, slot] = k, v
            config = config_for(q, KV_HEADS, len(x) / len(rows))
            plan = plan or plan_for(q, KV_HEADS, positions, starts, config=config, max_splits=2)
            seen = msa_attention(
                q, cache[0], cache[1], positions=positions, cu_seqlens_q=starts, block_table=table, scale=D**-0.5,
                plan=plan, config=config,
            )  # fmt: skip
            x = x + seen.reshape(len(x), WIDTH) @ o
            x = x + functional.silu(functional.rms_norm(x, (WIDTH,)) @ up) @ down
        return x @ self.head


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    angle = positions[:, None] * 100.0 ** (-torch.arange(0, D, 2, device=x.device) / D)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


@pytest.mark.parametrize("seed", range(3))
def test_rebuilt_holes_equal_full_recompute(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randrange(60, 150) for _ in range(2)]
    draw = torch.Generator().manual_seed(seed)
    texts = [torch.randint(VOCAB, (length,), generator=draw).to(DEVICE) for length in lengths]
    width = max(lengths) // PAGE + 1
    table = torch.randperm(2 * width + 1, generator=draw)[: 2 * width].view(2, width).int().to(DEVICE)
    model = Model(2 * width + 1)
    whole = model.run([[(0, length)] for length in lengths], torch.cat(texts), table)
    wholes = whole.split(lengths)

    rows: list[Row] = []
    for request, length in enumerate(lengths):
        lost = [i for i in range((length - 1) // PAGE) if rng.random() < 0.5]
        for cache in model.caches:
            cache[:, table[request, lost].long()] = float("nan")
        row = [(i * PAGE, (i + 1) * PAGE) for i in lost] + [((length - 1) // PAGE * PAGE, length)]
        merged: Row = []
        for a, b in row:
            if merged and merged[-1][1] == a:
                merged[-1] = (merged[-1][0], b)
            else:
                merged.append((a, b))
        rows.append(merged)
    again = model.run(
        rows, torch.cat([text[a:b] for row, text in zip(rows, texts, strict=True) for a, b in row]), table
    )
    expected = torch.cat([full[a:b] for row, full in zip(rows, wholes, strict=True) for a, b in row])
    assert torch.equal(again.argmax(-1), expected.argmax(-1))
    assert float((again - expected).norm() / expected.norm()) < 1e-5
