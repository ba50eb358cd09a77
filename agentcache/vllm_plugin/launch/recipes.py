"""The models that can be built here, by name: the class of transformers' configuration (`arch`), and its options."""

from typing import Any

_SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 8192,
    **_SPECIAL,
    "tie_word_embeddings": False,
    # Wide enough that greedy decoding is decided by margins, not by ties.
    "initializer_range": 0.08,
}
_BY_HEADS = {name: value for name, value in _TINY.items() if name != "head_dim"}
"""For configurations in which a head's width is that of the model by their number."""

_DEMO = {
    **_TINY,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "initializer_range": 0.04,
}

_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
_WINDOW = 128
_SLIDING = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "sliding_window": _WINDOW,
    "query_pre_attn_scalar": 4,  # queries and keys are normalised: sharper than by their width
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}
_DELTA = {
    **_MOE,
    "num_experts_per_tok": 4,  # all: in 16 bits a router's near-tie would be a jump
    "head_dim": 64,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "shared_expert_intermediate_size": 128,
    "decoder_sparse_step": 1,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 1,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}

RECIPES: dict[str, dict[str, Any]] = {
    "tiny-llama": {"arch": "Llama", **_TINY},
    "tiny-qwen3": {"arch": "Qwen3", **_TINY},
    "tiny-moe": {"arch": "Qwen3Moe", **_TINY, **_MOE, "decoder_sparse_step": 1, "mlp_only_layers": []},
    # Sliding windows; the second with attention sinks.
    "tiny-gemma3": {"arch": "Gemma3Text", **_TINY, **_SLIDING},
    "tiny-gpt-oss": {
        "arch": "GptOss",
        **_TINY,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": _WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    # Chunks in three layers, everything in the fourth.
    "tiny-llama4": {
        "arch": "Llama4Text",
        **_TINY,
        "attention_chunk_size": _WINDOW,
        "intermediate_size_mlp": 256,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
    },
    # Latent attention, in the one width that vLLM's kernels for the CPU have.
    "tiny-deepseek-v3": {
        "arch": "DeepseekV3",
        **_BY_HEADS,
        "num_key_value_heads": 4,
        "kv_lora_rank": 512,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "first_k_dense_replace": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "num_nextn_predict_layers": 0,
    },
    # Recurrent layers before one of full attention: gated delta nets, Mamba 2. Small states, for they size the blocks.
    "tiny-qwen3-next": {"arch": "Qwen3Next", **_TINY, **_DELTA},
    "tiny-nemotron-h": {
        "arch": "NemotronH",
        **{name: value for name, value in _TINY.items() if name != "num_hidden_layers"},
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
        "ssm_state_size": 16,
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "n_groups": 1,
        "chunk_size": 64,
    },
    "tiny-granite-hybrid": {
        "arch": "GraniteMoeHybrid",
        **_BY_HEADS,
        "layer_types": ["mamba"] * 3 + ["attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 64,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 128,
    },
    # Big enough that computing a prompt takes real time on two cores.
    "demo-llama": {"arch": "Llama", **_DEMO},
    "demo-gemma3": {"arch": "Gemma3Text", **_DEMO, **_SLIDING},
    "demo-qwen3-next": {
        "arch": "Qwen3Next",
        **_DEMO,
        **_DELTA,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 1536,
    },
}
