"""The rules by which an engine gets less than `holes`: what was found, why that matters, what a user can do."""

from agentcache.vllm_plugin.levels import findings
from agentcache.vllm_plugin.levels.rule import Level, Rule

RULES = (
    # What the model is comes first: for some, vLLM itself switches prefix caching off.
    Rule(
        "no causal decoder",
        findings.attention_type,
        "a block can be reused behind a hole only where each token sees those before it and no other",
        "serve a decoder-only model that generates",
        Level.ADMIT,
    ),
    Rule(
        "states beside attention, or in its place",
        lambda s: findings.when(
            s.config.model_config.attn_type in ("hybrid", "attention_free"),
            f"the model's attention is {s.config.model_config.attn_type}",
        ),
        "a state holds all that came before it, so that none can be reused behind a hole",
        "serve a model with full attention",
    ),
    Rule(
        "MLA",
        findings.latents,
        "reuse behind holes has been shown to be exact in its layout on a CPU alone",
        "set the option mla_holes to have it all the same, where there is no indexer",
    ),
    Rule(
        "windows among full attention",
        findings.merged_groups,
        "which layers of a group see less than everything cannot be told",
        "leave --disable-hybrid-kv-cache-manager out",
    ),
    Rule(
        "dual-chunk attention",
        lambda s: findings.when(
            hasattr(s.config.model_config.hf_config, "dual_chunk_attention_config"),
            "the model has dual-chunk attention",
        ),
        "it encodes positions by chunks of the whole context, not token by token",
        "serve the model's variant without dual_chunk_attention_config",
    ),
    Rule(
        "prefix caching off",
        lambda s: findings.when(not s.config.cache_config.enable_prefix_caching, "prefix caching is off"),
        "no block outlives its request, so there is nothing to keep",
        "leave --no-enable-prefix-caching out",
        Level.OFF,
    ),
    Rule(
        "chunked prefill off",
        lambda s: findings.when(not s.config.scheduler_config.enable_chunked_prefill, "chunked prefill is off"),
        "a prompt with holes may need more steps than one",
        "leave --no-enable-chunked-prefill out",
    ),
    Rule(
        "speculative decoding",
        findings.drafts,
        "a drafter with K/V of its own writes behind what is scheduled, where resident blocks may stand",
        "draft by ngram or suffix, or leave --speculative-config out",
    ),
    Rule(
        "KV connector",
        findings.connector,
        "it may load a missing block while that block is being rebuilt",
        "leave --kv-transfer-config and --kv-offloading-size out",
    ),
    Rule(
        "context parallelism",
        findings.context_parallel,
        "each block is then sharded over ranks, while holes are planned in whole blocks",
        "use tensor parallelism",
        Level.ADMIT,
    ),
    Rule(
        "pipeline parallelism",
        lambda s: findings.when(
            (size := s.config.parallel_config.pipeline_parallel_size) > 1, f"pipeline_parallel_size is {size}"
        ),
        "several steps are then under way at once, which jumps over resident blocks have not been tried with",
        "use tensor parallelism",
    ),
    Rule(
        "KV cache format",
        lambda s: findings.when(
            (dtype := str(s.config.cache_config.cache_dtype)) not in findings.KV_DTYPES,
            f"the KV cache is kept as {dtype}",
        ),
        "what is written for a token may then depend on what is computed beside it",
        "use --kv-cache-dtype auto or fp8",
    ),
    Rule(
        "attention backend",
        findings.attention_backend,
        "a row would read keys that another row of its step has not written yet",
        "leave --attention-backend to vLLM or name another",
    ),
    Rule(
        "auxiliary outputs",
        lambda s: findings.when(s.config.aux_output_config.enabled, "routed experts are returned"),
        "they are wanted for every position of a prompt, also for those that are not computed again",
        "leave --enable-return-routed-experts out",
    ),
    Rule(
        "model runner V2 with a stock worker",
        lambda s: findings.when(
            s.config.use_v2_model_runner and not findings.runs_our_worker(s.config),
            f"the V2 model runner runs in {s.config.parallel_config.worker_cls}",
        ),
        "it counts computed tokens on the device and follows a jump over resident blocks only in AgentCache's worker",
        "name AgentCache's worker class, as `agentcache serve` does",
    ),
    Rule(
        "scheduler of another plug-in",
        findings.foreign_scheduler,
        "an engine has one, which stands where AgentCache's would",
        "switch the other plug-in off",
        Level.OFF,
    ),
    Rule(
        "worker of another plug-in",
        findings.foreign_worker,
        "whether it follows jumps over resident blocks is not known",
        "leave --worker-cls out",
    ),
    Rule(
        "KV connector of unknown ways",
        findings.foreign_connector,
        "it may pin blocks of its own, or count on the order in which vLLM evicts them",
        "use a connector that comes with vLLM, without lazy_offload",
        Level.ADMIT,
    ),
    Rule(
        "not one full-attention group",
        findings.groups,
        "sliding-window, chunked, Mamba, hybrid and similar layers keep state that a block behind a hole does not "
        "determine",
        "serve a model whose layers all have full attention",
        early=False,
    ),
    Rule(
        "hash blocks differ from cache blocks",
        findings.hash_block,
        "a hit may then end inside a block",
        "leave --prefix-match-unit out",
        early=False,
    ),
    Rule(
        "managers of another plug-in",
        findings.managers,
        "it is not known how they look up and allocate",
        "switch the other plug-in off",
        early=False,
    ),
    Rule(
        "block pool of another kind",
        findings.pool,
        "its order of eviction is not ours to change",
        "switch the other plug-in off",
        Level.ADMIT,
        early=False,
    ),
    Rule(
        "waiting queue of another plug-in",
        findings.queue,
        "its order is not ours to change",
        "switch the other plug-in off",
        Level.OFF,
        early=False,
    ),
)
"""Why an engine gets less than `holes`."""
