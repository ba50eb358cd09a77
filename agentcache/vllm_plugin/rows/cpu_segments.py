"""Attention metadata for rows with holes: each run of consecutive positions becomes a sequence of its own.

vLLM writes the K/V of all scheduled tokens of a layer before that layer's attention runs. So a missing segment [a, b)
of a request may be handed to a stock varlen backend as a *virtual sequence* of query length b - a and sequence
length b over the request's own block table: every key below b is then present, resident or just written.
"""

import dataclasses
from typing import Any

import torch

from agentcache.vllm_plugin.compat import CommonAttentionMetadata, CPUAttentionBackend, CPUAttentionMetadataBuilder
from agentcache.vllm_plugin.overrides import Joined


def split_segments(common: CommonAttentionMetadata) -> CommonAttentionMetadata:
    """Split rows at discontinuities of their positions; returns the argument itself when there are none."""
    tokens, rows = common.num_actual_tokens, common.num_reqs
    if common.positions is None or tokens <= rows:
        return common
    positions = common.positions[:tokens]
    row_starts = common.query_start_loc[: rows + 1]
    begins = torch.ones(tokens, dtype=torch.bool, device=positions.device)
    begins[1:] = positions[1:] != positions[:-1] + 1
    begins[row_starts[:-1].long().clamp(max=tokens - 1)] = True
    starts = begins.nonzero().flatten()
    if starts.numel() == rows:
        return common
    ends = torch.cat([starts[1:], starts.new_tensor([tokens])])
    row = torch.searchsorted(row_starts.long(), starts, right=True) - 1
    query_start_loc = torch.cat([starts, ends[-1:]]).to(row_starts.dtype)
    seq_lens = (positions[ends - 1] + 1).to(common.seq_lens.dtype)
    return dataclasses.replace(
        common,
        num_reqs=starts.numel(),
        query_start_loc=query_start_loc,
        query_start_loc_cpu=query_start_loc.cpu(),
        seq_lens=seq_lens,
        max_query_len=int((ends - starts).max()),
        max_seq_len=int(seq_lens.max()),
        block_table_tensor=common.block_table_tensor[row].contiguous(),
    )


class SegmentedCPUMetadataBuilder(Joined, CPUAttentionMetadataBuilder):
    """vLLM's CPU metadata builder over virtual sequences."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, *args: Any, **kw: Any
    ) -> Any:
        return super().build(common_prefix_len, split_segments(common_attn_metadata), *args)


class SegmentedCPUBackend(Joined, CPUAttentionBackend):
    """vLLM's CPU attention, given segments."""

    @staticmethod
    def get_builder_cls() -> type[SegmentedCPUMetadataBuilder]:
        return SegmentedCPUMetadataBuilder
