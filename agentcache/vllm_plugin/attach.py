"""Puts a residency under a scheduler that vLLM has just built."""

from typing import Any

from agentcache.cost.model import CostModel
from agentcache.cost.prior import ModelShape, flop_prior
from agentcache.cost.profile import CostProfile
from agentcache.policy import make_policy
from agentcache.policy.admission import parse_admission
from agentcache.residency import Residency
from agentcache.vllm_plugin.block_pool import ResidencyBlockPool
from agentcache.vllm_plugin.compat import BlockPool, FullAttentionManager, KVCacheManager, adopt, init_logger
from agentcache.vllm_plugin.config import EngineOptions
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.kv_manager import HoleFillingManager, ResidencyKVCacheManager
from agentcache.vllm_plugin.refusals import runs_fused_worker

logger = init_logger(__name__)

MAX_SEGMENTS = 8  # of one request in one fused step: each costs tiles of its own


def attach(scheduler: Any, options: EngineOptions) -> Host:
    """Adopt the scheduler's manager, block table and pool; returns the host that feeds their residency.

    Raises `ConfigError` for an unknown policy, admission or profile, `Unsupported` where another plug-in was first.
    """
    config = scheduler.vllm_config
    profile = (
        CostProfile.load(options.profile)
        if options.profile
        else flop_prior(ModelShape.from_hf_config(config.model_config.hf_text_config.to_dict()))
    )
    capacity = scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1  # one is vLLM's null block
    policy = make_policy(options.policy, CostModel(profile, scheduler.block_size), capacity)
    host = Host(Residency(policy, capacity, options.max_contexts, parse_admission(options.admission)))

    fused = options.mode == "fused" and runs_fused_worker(config)
    if options.mode == "fused" and not fused:
        logger.warning("AgentCache: mode sequential, one hole a step: this worker does not run fused steps")
    manager = adopt(scheduler.kv_cache_manager, KVCacheManager, ResidencyKVCacheManager)
    manager.attach(host, policy.reuse == "holes", MAX_SEGMENTS if fused else 1)
    adopt(manager.group, FullAttentionManager, HoleFillingManager).attach()
    adopt(manager.block_pool, BlockPool, ResidencyBlockPool).attach(host)
    logger.info(
        "AgentCache: policy %s, admission %s, reuse %s, mode %s, %d blocks",
        options.policy,
        options.admission,
        policy.reuse,
        "fused" if fused else "sequential",
        capacity,
    )
    return host
