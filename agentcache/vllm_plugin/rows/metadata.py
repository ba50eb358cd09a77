"""What the kernels need to know of a step, worked out once and used by every layer."""

from dataclasses import dataclass
from typing import Any

import torch

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.compat import AttentionCGSupport, AttentionMetadataBuilder, CommonAttentionMetadata
from agentcache.vllm_plugin.overrides import Joined
from agentcache_kernels.msa import config_for, plan_for
from agentcache_kernels.plan import TilePlan
from agentcache_kernels.tables import Config


@dataclass(slots=True)
class SegmentMetadata:
    """A step's rows: their positions say which segments they are, so segments themselves are not listed."""

    num_actual_tokens: int
    positions: torch.Tensor
    query_start_loc: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    plan: TilePlan
    config: Config


class SegmentMetadataBuilder(Joined, AttentionMetadataBuilder[Any]):
    """Plans tiles from positions; never waits for the device.

    How many programs run follows from the number of tokens and requests alone. So a decode step may be replayed from a
    captured graph: the plan is copied to where the graph reads it.
    """

    _cudagraph_support = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.kv_heads = kv_cache_spec.num_kv_heads
        model = vllm_config.model_config
        if kv_cache_spec.dtype != model.dtype:
            raise Unsupported(
                f"the cache holds {kv_cache_spec.dtype} and the model computes in {model.dtype}, these kernels "
                "take one dtype for both; the engine cannot start",
                hint="leave --kv-cache-dtype at auto, or drop --attention-backend CUSTOM",
            )
        # An empty tensor of the queries' shape: the plan depends on its heads, its dtype and its device.
        heads = compat.query_heads(vllm_config, layer_names)
        self._q = torch.empty((0, heads, kv_cache_spec.head_size), dtype=model.dtype, device=device)
        self._captured: dict[tuple[int, int], TilePlan] = {}

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> SegmentMetadata:
        common = common_attn_metadata
        if common.causal is not True:
            raise Unsupported(
                "the batch has rows that see keys behind them; multi-segment attention is causal",
                hint="drop --attention-backend CUSTOM for this model",
            )
        tokens, requests = common.num_actual_tokens, common.num_reqs
        positions = positions_of(common)
        starts = common.query_start_loc[: requests + 1]
        config = config_for(self._q, self.kv_heads, tokens / max(1, requests))
        plan = plan_for(self._q, self.kv_heads, positions, starts, config=config)
        captured = self._captured.get((tokens, requests))
        if captured is not None and common.max_query_len == 1:
            captured.fields.copy_(plan.fields)
            plan = captured
        table = common.block_table_tensor[:requests]
        return SegmentMetadata(tokens, positions, starts, table, common.slot_mapping, plan, config)

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> SegmentMetadata:
        if common_attn_metadata.positions is None:  # those worked out here would be the captured ones for ever
            raise Unsupported(
                "this model runner captures graphs without telling positions; the engine cannot start",
                hint="start it with --enforce-eager, or without --attention-backend CUSTOM",
            )
        metadata = self.build(0, common_attn_metadata)
        self._captured[metadata.plan.tokens, metadata.plan.requests] = metadata.plan
        return metadata


def positions_of(common: CommonAttentionMetadata) -> torch.Tensor:
    """The position of each token; a runner that does not say has rows without gaps, which end at `seq_lens`."""
    tokens, requests = common.num_actual_tokens, common.num_reqs
    if common.positions is not None:
        return common.positions[:tokens]
    starts = common.query_start_loc[: requests + 1].long()
    token = torch.arange(tokens, device=starts.device)
    row = torch.searchsorted(starts, token, right=True).clamp(max=requests) - 1
    return common.seq_lens[row].long() - starts[row + 1] + token
