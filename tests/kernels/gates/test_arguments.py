"""What is wrong is refused before a launch, in a sentence that names the value and what was expected."""

import re

import pytest
import torch

from agentcache_kernels import msa
from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.msa import msa_attention, plan_for
from agentcache_kernels.tables import Config
from tests.kernels.gates.batch import DEVICE, make

HALF = torch.float16


def call(**change: object) -> None:
    arguments = vars(make([[(3, 5), (30, 33)]])) | change
    msa_attention(**arguments)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.zeros(5, 4, 16, dtype=torch.float64)}, "q.dtype is torch.float64"),
        ({"q": torch.zeros(5, 4, 24)}, "head size is 24"),
        ({"q": torch.zeros(5, 4)}, "(2, 4), expected (3, 4)"),
        ({"q": torch.zeros(5, 3, 16)}, "q_heads / kv_heads is 3 / 2"),
        ({"k_cache": torch.zeros(6, 16, 2, 16, dtype=HALF)}, "k_cache is torch.float16 [6, 16, 2, 16]"),
        ({"v_cache": torch.zeros(1, 16, 2, 16)}, "v_cache is torch.float32 [1, 16, 2, 16]"),
        ({"k_cache": torch.zeros(6, 24, 2, 16)}, "block size is 24"),
        ({"positions": torch.zeros(5)}, "positions is torch.float32 [5]"),
        ({"positions": torch.tensor([3, 4, 30])}, "positions is torch.int64 [3]"),
        ({"positions": torch.tensor([3, 4, 30, 30, 32])}, "positions[3] is 30, expected more than 30"),
        ({"positions": torch.tensor([-1, 4, 30, 31, 32])}, "positions is in [-1, 32]"),
        ({"positions": torch.tensor([3, 4, 30, 31, 2**31])}, "expected 0 to"),
        ({"positions": torch.tensor([3, 4, 30, 31, 320])}, "3 blocks wide, expected 21"),
        ({"cu_seqlens_q": torch.tensor([0, 5])}, "cu_seqlens_q is torch.int64 [2]"),
        ({"cu_seqlens_q": torch.tensor([0, 4], dtype=torch.int32)}, "cu_seqlens_q is [0, 4]"),
        ({"block_table": torch.tensor([[0, 1, 99]], dtype=torch.int32)}, "block_table[0, 2] is 99, expected 0 to 5"),
        ({"block_table": torch.tensor([[0, -1, 2]], dtype=torch.int32)}, "block_table[0, 1] is -1"),
        ({"block_table": torch.tensor([[0, 1, 2]])}, "block_table is torch.int64 [1, 3]"),
        ({"out": torch.zeros(5, 4, 16, dtype=HALF)}, "out is torch.float16"),
        ({"lse": torch.zeros(5, 2)}, "lse is torch.float32 [5, 2]"),
        ({"soft_cap": 0.0}, "soft_cap is 0.0"),
        ({"soft_cap": float("inf")}, "soft_cap is inf"),
        ({"soft_cap": float("nan")}, "soft_cap is nan"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"window": 0}, "window is 0"),
        ({"scale": torch.tensor(1.0)}, "scale is"),
        ({"soft_cap": "5"}, "soft_cap is 5"),
        ({"window": 2.5}, "window is 2.5"),
        ({"window": True}, "window is True"),
        ({"window": 2**31}, "window is 2147483648"),
        ({"out": torch.zeros(1, 4, 16).expand(5, 4, 16)}, "out.stride() is (0, 16, 1), expected no 0"),
        ({"q": torch.zeros(5, 4, 16, device="meta")}, "meta"),
    ],
)
def test_bad_arguments(change: dict[str, object], says: str) -> None:
    moved = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) and not v.is_meta else v for k, v in change.items()}
    with pytest.raises(ArgumentError, match=re.escape(says)) as caught:
        call(**moved)
    assert str(caught.value).endswith("nothing was launched")


def test_a_plan_of_another_batch_or_tile_is_refused() -> None:
    made = make([[(3, 5), (30, 33)]])
    other = plan_for(made.q[:4], 2, made.positions[:4], made.cu_seqlens_q, config=Config(16, 16, 4, 1))
    with pytest.raises(ArgumentError, match="plan is for"):
        call(plan=other)
    same = plan_for(made.q, 2, made.positions, made.cu_seqlens_q, config=Config(16, 16, 4, 1))
    with pytest.raises(ArgumentError, match="plan is for"):
        call(plan=same, config=Config(64, 16, 4, 1))


def test_with_a_plan_values_are_compared_only_on_demand() -> None:
    made, config = make([[(3, 5), (30, 33)]]), Config(16, 16, 4, 1)
    plan = plan_for(made.q, 2, made.positions, made.cu_seqlens_q, config=config)
    made.block_table[0, 2] = 99
    with pytest.raises(ArgumentError, match="99"):
        msa_attention(**vars(made), plan=plan, config=config, check=True)


def test_a_stride_beyond_what_the_kernel_computes_in_32_bits_is_refused() -> None:
    """The last dimension lies farthest apart, as in a cache [d, blocks, ...] that is only viewed the right way."""
    made = make([[(3, 5), (30, 33)]])
    step = 2**31 // 15 + 1
    storage = torch.empty(1, device=DEVICE)
    shape = made.k_cache.shape
    wide = torch.as_strided(storage, (0, *shape[1:]), (1, 1, 1, step))  # no element, so no memory
    for changed in ({"k_cache": wide, "v_cache": wide[..., :16]}, {"k_cache": made.k_cache[:0], "v_cache": wide}):
        with pytest.raises(ArgumentError, match=re.escape(f"stride(-1) is {step}")):
            msa_attention(**(vars(made) | changed))


def test_the_debug_mode_compares_values_although_there_is_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    made, config = make([[(3, 5), (30, 33)]]), Config(16, 16, 4, 1)
    plan = plan_for(made.q, 2, made.positions, made.cu_seqlens_q, config=config)
    made.block_table[0, 2] = -7
    monkeypatch.setattr(msa, "DEBUG", True)
    with pytest.raises(ArgumentError, match=re.escape("block_table[0, 2] is -7")):
        msa_attention(**vars(made), plan=plan, config=config)


def test_a_tensor_without_memory_is_refused_by_its_device() -> None:
    arguments = vars(make([[(3, 5), (30, 33)]]))
    meta = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}
    with pytest.raises(ArgumentError, match=re.escape("q.device is meta")):
        msa_attention(**meta)
