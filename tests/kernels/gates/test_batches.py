"""The batches that are tuned and timed: packed and unpacked are the same work."""

import torch

from agentcache_kernels.batches import make, unpacked
from agentcache_kernels.msa import msa_attention
from tests.kernels.gates.batch import DEVICE

ROWS = [[(3, 9), (40, 41), (60, 70)], [(99, 100)], [(0, 20)]]


def test_virtual_sequences_compute_the_same() -> None:
    batch = make(ROWS, heads=4, kv_heads=2, d=16, page=16, dtype=torch.float32, device=DEVICE)
    apart = unpacked(batch)
    assert apart.cu_seqlens_q.tolist() == [0, 6, 7, 17, 18, 38]
    assert apart.pairs == batch.pairs == sum((b - a) * (a + b + 1) // 2 for row in ROWS for a, b in row)
    assert batch.kv_bytes == (70 + 100 + 20) * 2 * 2 * 16 * 4
    torch.testing.assert_close(msa_attention(**vars(apart)), msa_attention(**vars(batch)), rtol=0, atol=1e-5)
