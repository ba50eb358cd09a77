"""The architectures of the table of levels: what people serve, as vLLM and transformers know them.

A configuration is the defaults of transformers' own class of that `model_type`, with fewer layers where their pattern
allows it, and what vLLM wants beside it. No weights are read; sizes of layers are those of the class.
"""

from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """`name` as people say it; the class that vLLM runs; transformers' type; what differs from its defaults.

    `left_out`: what transformers' class writes and vLLM's own class of that type does not read; `written`: what that
    reads, and the other does not write.
    """

    name: str
    architecture: str
    model_type: str
    more: dict[str, Any] = {}  # noqa: RUF012  (never mutated)
    left_out: tuple[str, ...] = ()
    written: dict[str, Any] = {}  # noqa: RUF012


def _layers(count: int, **more: Any) -> dict[str, Any]:
    return {"num_hidden_layers": count, **more}


# What vLLM's classes of models read, and the configurations' classes have no defaults for.
SCALES = {"zero_expert_type": "identity", "mla_scale_q_lora": True, "mla_scale_kv_lora": True}
KDA = _layers(8, mla_use_nope=True) | {
    "linear_attn_config": {
        "kda_layers": [1, 2, 3, 5, 6, 7],
        "full_attn_layers": [4, 8],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    }
}
GRANITE = _layers(8, layer_types=["mamba", "mamba", "mamba", "attention"] * 2)
LFM2 = {"block_dim": 2560, "conv_dim": 2560, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2} | _layers(8)
MIMO = _layers(6) | {
    "hybrid_layer_pattern": [0, 1, 1, 1, 1, 1],
    "moe_layer_freq": [0, 1, 1, 1, 1, 1],
    "layernorm_epsilon": 1e-5,
    "sliding_window_size": 128,
    "swa_head_dim": 192,
    "swa_v_head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
}
V4 = {"compress_ratios": [1, 1, 4, 128, 4, 128], "num_hash_layers": 0}
STEP_ROPE = {"rope_theta": 10_000.0, "rope_scaling": None}
STEP = _layers(8) | {
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"] * 2,
    "sliding_window": 512,
    "max_position_embeddings": 65536,
}

ARCHITECTURES = [
    Architecture("Llama 2, 3", "LlamaForCausalLM", "llama", _layers(4)),
    Architecture("Llama 4", "Llama4ForCausalLM", "llama4_text", _layers(8)),
    Architecture("Mistral", "MistralForCausalLM", "mistral", _layers(4, sliding_window=None)),
    Architecture("Mistral 7B v0.1 (window)", "MistralForCausalLM", "mistral", _layers(4, sliding_window=4096)),
    Architecture("Mixtral", "MixtralForCausalLM", "mixtral", _layers(4)),
    Architecture("Qwen2", "Qwen2ForCausalLM", "qwen2", _layers(4)),
    Architecture("Qwen2-MoE", "Qwen2MoeForCausalLM", "qwen2_moe", _layers(4)),
    Architecture("Qwen3", "Qwen3ForCausalLM", "qwen3", _layers(4)),
    Architecture("Qwen3-MoE", "Qwen3MoeForCausalLM", "qwen3_moe", _layers(4)),
    Architecture("Qwen3-Next", "Qwen3NextForCausalLM", "qwen3_next", _layers(8)),
    Architecture("Qwen3.5", "Qwen3_5ForCausalLM", "qwen3_5_text", _layers(8)),
    Architecture("Qwen3.5-MoE", "Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", _layers(8)),
    Architecture("DeepSeek-V2", "DeepseekV2ForCausalLM", "deepseek_v2", _layers(4)),
    Architecture("DeepSeek-V3, R1, V3.1", "DeepseekV3ForCausalLM", "deepseek_v3", _layers(4)),
    Architecture("DeepSeek-V3.2", "DeepseekV32ForCausalLM", "deepseek_v32", _layers(4)),
    Architecture("DeepSeek-V4", "DeepseekV4ForCausalLM", "deepseek_v4", _layers(6), ("mlp_layer_types",), V4),
    Architecture("Kimi-K2", "DeepseekV3ForCausalLM", "deepseek_v3", _layers(4, n_routed_experts=384)),
    Architecture("Kimi-Linear", "KimiLinearForCausalLM", "kimi_linear", KDA),
    Architecture("GLM-4", "Glm4ForCausalLM", "glm4", _layers(4)),
    Architecture("GLM-4.5, 4.6 (MoE)", "Glm4MoeForCausalLM", "glm4_moe", _layers(4, head_dim=128)),
    Architecture("GLM-4.7-Flash", "Glm4MoeLiteForCausalLM", "glm4_moe_lite", _layers(4, first_k_dense_replace=1)),
    Architecture("GLM-5 (DSA)", "GlmMoeDsaForCausalLM", "glm_moe_dsa", _layers(4)),
    Architecture("MiniMax-M2", "MiniMaxM2ForCausalLM", "minimax_m2", _layers(4, rotary_dim=64, scoring_func="sigmoid")),
    Architecture("gpt-oss", "GptOssForCausalLM", "gpt_oss", _layers(4)),
    Architecture("Gemma", "GemmaForCausalLM", "gemma", _layers(4)),
    Architecture("Gemma 2", "Gemma2ForCausalLM", "gemma2", _layers(4)),
    Architecture("Gemma 3", "Gemma3ForCausalLM", "gemma3_text", _layers(12)),
    Architecture("Gemma 3n", "Gemma3nForCausalLM", "gemma3n_text", {}),
    Architecture("Gemma 4", "Gemma4ForCausalLM", "gemma4_text", {}),
    Architecture("Nemotron", "NemotronForCausalLM", "nemotron", _layers(4, head_dim=128, num_key_value_heads=8)),
    Architecture(
        "Nemotron-H",
        "NemotronHForCausalLM",
        "nemotron_h",
        {"layers_block_type": ["mamba", "mlp", "mamba", "attention"] * 2},
    ),
    Architecture("Seed-OSS", "SeedOssForCausalLM", "seed_oss", _layers(4)),
    Architecture("Hunyuan dense", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", _layers(4, head_dim=128)),
    Architecture("Hunyuan MoE", "HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", _layers(4, head_dim=128)),
    Architecture("Step-3.5", "Step3p5ForCausalLM", "step3p5", STEP, ("rope_parameters",), STEP_ROPE),
    Architecture("MiMo-V2-Flash", "MiMoV2FlashForCausalLM", "mimo_v2_flash", MIMO),
    Architecture("Longcat-Flash", "LongcatFlashForCausalLM", "longcat_flash", {"num_layers": 2} | SCALES),
    Architecture("ERNIE 4.5", "Ernie4_5ForCausalLM", "ernie4_5", _layers(4)),
    Architecture("EXAONE 4", "Exaone4ForCausalLM", "exaone4", _layers(8)),
    Architecture("Granite", "GraniteForCausalLM", "granite", _layers(4)),
    Architecture("Granite 4 (hybrid)", "GraniteMoeHybridForCausalLM", "granitemoehybrid", GRANITE),
    Architecture("Bamba", "BambaForCausalLM", "bamba", _layers(8, attn_layer_indices=[3, 7])),
    Architecture("Falcon-H1", "FalconH1ForCausalLM", "falcon_h1", _layers(4)),
    Architecture("Jamba", "JambaForCausalLM", "jamba", _layers(8)),
    Architecture("Mamba 2", "Mamba2ForCausalLM", "mamba2", _layers(4)),
    Architecture("LFM2", "Lfm2ForCausalLM", "lfm2", LFM2),
    Architecture("Zamba 2", "Zamba2ForCausalLM", "zamba2", {}),
    Architecture("OLMo 2", "Olmo2ForCausalLM", "olmo2", _layers(4)),
    Architecture("OLMo 3", "Olmo3ForCausalLM", "olmo3", _layers(4)),
    Architecture("Command R7B (Cohere 2)", "Cohere2ForCausalLM", "cohere2", _layers(4)),
    Architecture("Phi-3", "Phi3ForCausalLM", "phi3", _layers(4, sliding_window=None)),
    Architecture("SmolLM3", "SmolLM3ForCausalLM", "smollm3", _layers(4)),
    Architecture("StarCoder 2", "Starcoder2ForCausalLM", "starcoder2", _layers(4, sliding_window=None)),
    Architecture("Phi-2", "PhiForCausalLM", "phi", _layers(4)),
    Architecture("OLMoE", "OlmoeForCausalLM", "olmoe", _layers(4)),
    Architecture("FlexOlmo", "FlexOlmoForCausalLM", "flex_olmo", _layers(4)),
    Architecture("Command R (Cohere)", "CohereForCausalLM", "cohere", _layers(4)),
    Architecture("GLM", "GlmForCausalLM", "glm", _layers(4)),
    Architecture("ERNIE 4.5 MoE", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", _layers(4)),
    Architecture("Granite MoE", "GraniteMoeForCausalLM", "granitemoe", _layers(4)),
    Architecture("Arcee", "ArceeForCausalLM", "arcee", _layers(4)),
    Architecture("Falcon", "FalconForCausalLM", "falcon", _layers(4)),
    Architecture("BLOOM", "BloomForCausalLM", "bloom", {"n_layer": 4}),
    Architecture("OPT", "OPTForCausalLM", "opt", _layers(4)),
    Architecture("Mamba", "MambaForCausalLM", "mamba", _layers(4)),
    Architecture("Falcon Mamba", "FalconMambaForCausalLM", "falcon_mamba", _layers(4)),
    Architecture("Apertus", "ApertusForCausalLM", "apertus", _layers(4)),
]

FLAGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "fp8 KV": ("--kv-cache-dtype", "fp8"),
    "n-gram": (
        "--speculative-config",
        '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}',
    ),
    "MTP": ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}'),
    "TP 2": ("--tensor-parallel-size", "2"),
    "PP 2": ("--pipeline-parallel-size", "2"),
    "DP 2": ("--data-parallel-size", "2"),
    "DCP 2": ("--tensor-parallel-size", "2", "--decode-context-parallel-size", "2"),
    "offloading": ("--kv-offloading-size", "1"),
    "P/D": ("--kv-transfer-config", '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}'),
    "no chunked prefill": ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"),
    "no prefix caching": ("--no-enable-prefix-caching",),
}
"""By column: flags of vLLM's server."""
