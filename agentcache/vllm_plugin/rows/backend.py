"""vLLM's attention backend `CUSTOM`: writes K/V of all rows, then runs multi-segment attention over the paged cache."""

from typing import Any, ClassVar

import torch

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.overrides import Joined, own
from agentcache.vllm_plugin.rows.metadata import SegmentMetadata, SegmentMetadataBuilder
from agentcache_kernels.arguments import BLOCK_SIZES, DTYPES, HEAD_DIMS, MAX_GROUP
from agentcache_kernels.msa import msa_attention

PATH = "agentcache.vllm_plugin.rows.backend.SegmentBackend"


class SegmentBackend(Joined, compat.AttentionBackend):
    """`--attention-backend CUSTOM`. What is not declared here vLLM refuses, the rest `SegmentImpl`."""

    forward_includes_kv_cache_update = False
    supported_dtypes: ClassVar[list[torch.dtype]] = list(DTYPES)
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16"]

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        return list(BLOCK_SIZES)

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return list(HEAD_DIMS)

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @staticmethod
    def get_impl_cls() -> type["SegmentImpl"]:
        return SegmentImpl

    @staticmethod
    def get_builder_cls() -> type[SegmentMetadataBuilder]:
        return SegmentMetadataBuilder


class SegmentImpl(Joined, compat.AttentionImpl):
    """One layer's attention. Raises `Unsupported` for what the kernels do not compute."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = "decoder",
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        for wrong, what in (
            (attn_type != "decoder", f"{attn_type} attention"),
            (alibi_slopes is not None, "ALiBi slopes"),
            (sinks is not None, "attention sinks"),
            (kv_cache_dtype not in SegmentBackend.supported_kv_cache_dtypes, f"a {kv_cache_dtype} cache"),
            (
                num_heads % (num_kv_heads or num_heads) != 0 or num_heads // (num_kv_heads or num_heads) > MAX_GROUP,
                f"{num_heads} query heads over {num_kv_heads} KV heads (up to {MAX_GROUP} of one are)",
            ),
            (head_size not in HEAD_DIMS, f"head size {head_size} (one of {HEAD_DIMS} is)"),
        ):
            if wrong:
                raise Unsupported(
                    f"the model asks for {what}, which these kernels do not compute; the engine cannot start",
                    hint="start it without --attention-backend CUSTOM",
                )
        self.num_heads, self.head_size, self.scale = num_heads, head_size, float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.window, self.soft_cap = sliding_window, logits_soft_cap or None
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: SegmentMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query, output [tokens, heads, d]; kv_cache [blocks, kv_heads, block_size, 2 d], keys before values."""
        if output_scale is not None or output_block_scale is not None:
            raise Unsupported("the model asks for quantized attention output, which multi-segment attention has not")
        if attn_metadata is None:  # a run that only measures memory
            return output.fill_(0)
        tokens = attn_metadata.num_actual_tokens
        k_cache, v_cache = self._caches(kv_cache)
        msa_attention(
            query[:tokens],
            k_cache,
            v_cache,
            positions=attn_metadata.positions,
            cu_seqlens_q=attn_metadata.query_start_loc,
            block_table=attn_metadata.block_table,
            scale=self.scale,
            out=output[:tokens].view(tokens, self.num_heads, self.head_size),
            soft_cap=self.soft_cap,
            window=self.window,
            plan=attn_metadata.plan,
            config=attn_metadata.config,
        )
        return output

    @own  # asked of backends that do not write inside attention, and declared by none of their bases
    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write key, value [tokens, kv_heads, d] to their slots; vLLM calls it before `forward` of the same layer."""
        k_cache, v_cache = self._caches(kv_cache)
        if kv_cache.is_cuda:
            compat.reshape_and_cache_flash(
                key, value, k_cache, v_cache, slot_mapping, self.kv_cache_dtype, layer._k_scale, layer._v_scale
            )
            return
        tokens = (slot_mapping >= 0).nonzero().flatten()  # padding has the slot -1
        slots = slot_mapping[tokens]
        page = k_cache.shape[1]
        k_cache[slots // page, slots % page] = key[tokens]
        v_cache[slots // page, slots % page] = value[tokens]

    @own
    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [blocks, block_size, kv_heads, d] of the keys and of the values."""
        k_cache, v_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        return k_cache, v_cache
