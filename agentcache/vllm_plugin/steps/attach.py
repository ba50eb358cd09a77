"""Puts a residency under a scheduler that vLLM has just built."""

from typing import Any

import agentcache
from agentcache.cost.model import CostModel
from agentcache.policy import make_online_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.residency import Residency
from agentcache.vllm_plugin.accounts.page import Page
from agentcache.vllm_plugin.blocks.block_pool import ResidencyBlockPool
from agentcache.vllm_plugin.blocks.kv_manager import HoleFillingManager, ResidencyKVCacheManager
from agentcache.vllm_plugin.compat import (
    BlockPool,
    FullAttentionManager,
    KVCacheManager,
    adopt,
    init_logger,
    version_of_vllm,
)
from agentcache.vllm_plugin.config import EngineOptions, parse_service
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.link.courier import CourierProcess
from agentcache.vllm_plugin.link.leases import ServiceLeases
from agentcache.vllm_plugin.link.link import Link
from agentcache.vllm_plugin.refusals import why_not_fused
from agentcache.vllm_plugin.steps.gauges import gauge
from agentcache.vllm_plugin.steps.pacing import Pacer
from agentcache.vllm_plugin.steps.prices import starting_profile
from agentcache.vllm_plugin.steps.waiting import RankedQueue

logger = init_logger(__name__)


def attach(scheduler: Any, options: EngineOptions) -> Host:
    """Adopt the scheduler's manager, block table and pool; returns the host that feeds their residency.

    Raises `ConfigError` for an unknown policy, admission or chunking and for a profile of something else,
    `Unsupported` where another plug-in was first.
    """
    config = scheduler.vllm_config
    rule = parse_chunking(options.chunking)
    profile = starting_profile(options.profile, config.model_config, scheduler.block_size)
    capacity = scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1  # one is vLLM's null block
    cost = CostModel(profile, scheduler.block_size)
    policy = make_online_policy(options.policy, cost, capacity)
    if options.service is not None:
        policy = ServiceLeases(policy)
    residency = Residency(policy, capacity, options.max_contexts, parse_admission(options.admission))
    host = Host(residency, block_size=scheduler.block_size, receipts=options.receipts)
    scheduler.pacer = Pacer(host, rule, profile, options.profile is not None, scheduler.block_size)

    _queue(scheduler, host)
    reason = why_not_fused(config)
    fused = options.mode == "fused" and not reason
    if options.mode == "fused" and reason:
        logger.warning("AgentCache: mode sequential, one hole a step: %s", reason)
    manager = adopt(scheduler.kv_cache_manager, KVCacheManager, ResidencyKVCacheManager)
    most = options.max_segments
    manager.attach(host, policy.reuse == "holes", most, most if fused else 1, cost)
    adopt(manager.group, FullAttentionManager, HoleFillingManager).attach()
    adopt(manager.block_pool, BlockPool, ResidencyBlockPool).attach(host)
    mode = "fused" if fused else "sequential"
    if options.service is not None:
        carrier = CourierProcess(*parse_service(options.service))
        scheduler.link = Link(host, manager.block_pool, carrier, profile, scheduler.block_size, options.engine)
        scheduler.link.start()
    host.meter.set("agentcache_build_info", 1, agentcache.__version__, version_of_vllm(), mode)
    host.meter.set("agentcache_policy_active", 1, policy.name, "all")
    if scheduler.log_stats:
        host.page = Page(
            host.meter,
            lambda: gauge(host, manager.block_pool, scheduler.block_size),
            str(config.model_config.served_model_name),
            str(config.parallel_config.data_parallel_index),
        )
        host.page.start()
    logger.info(
        "AgentCache: policy %s, admission %s, chunking %s, reuse %s, mode %s, %d blocks",
        options.policy,
        options.admission,
        options.chunking,
        policy.reuse,
        mode,
        capacity,
    )
    return host


def _queue(scheduler: Any, host: Host) -> None:
    """Where admission has a rule, its queue stands in the place of vLLM's."""
    admission = host.residency.admission
    if not admission:
        return
    scheduler.waiting = RankedQueue(host)  # nothing waits yet
    host.priorities = admission.config.priority or scheduler.vllm_config.scheduler_config.policy == "priority"
    admission.on_hold_end = host.held
