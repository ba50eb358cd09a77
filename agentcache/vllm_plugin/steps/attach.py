"""Puts a residency under a scheduler that vLLM has just built."""

from collections.abc import Sequence
from typing import Any

import agentcache
from agentcache.cost.model import CostModel
from agentcache.policy import make_online_policy
from agentcache.policy.admission.footing import ONE_GROUP, Footing
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.base import Policy
from agentcache.policy.chunking import parse_chunking
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from agentcache.vllm_plugin.accounts.page import Page
from agentcache.vllm_plugin.blocks.block_pool import HoleFillingBlockPool, ResidencyBlockPool
from agentcache.vllm_plugin.blocks.kv_manager import HoleFillingManager, ResidencyKVCacheManager
from agentcache.vllm_plugin.blocks.reach import Reach, reaches_of
from agentcache.vllm_plugin.compat import (
    BlockPool,
    FullAttentionManager,
    KVCacheManager,
    adopt,
    init_logger,
    version_of_vllm,
)
from agentcache.vllm_plugin.config import EngineOptions, parse_service
from agentcache.vllm_plugin.copies.porter import Porter
from agentcache.vllm_plugin.copies.room import beside_connector, block_bytes, places_of, why_not
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.levels import Level, why_not_fused
from agentcache.vllm_plugin.link.courier import CourierProcess
from agentcache.vllm_plugin.link.leases import ServiceLeases
from agentcache.vllm_plugin.link.link import Link
from agentcache.vllm_plugin.steps.footing import footing_of
from agentcache.vllm_plugin.steps.gauges import gauge
from agentcache.vllm_plugin.steps.pacing import Pacer
from agentcache.vllm_plugin.steps.prices import starting_profile
from agentcache.vllm_plugin.steps.waiting import RankedQueue

logger = init_logger(__name__)


def attach(scheduler: Any, options: EngineOptions, level: Level = Level.HOLES, why: str | None = None) -> Host:
    """Put a residency under the scheduler, at a level; returns the host that feeds it. `why` no higher level is had.

    Raises `ConfigError` for an unknown policy, admission or chunking and for a profile of something else,
    `Unsupported` where another plug-in was first.
    """
    config, size = scheduler.vllm_config, scheduler.hash_block_size
    profile = starting_profile(options.profile, config.model_config, size)
    capacity = scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1  # one is vLLM's null block
    cost = CostModel(profile, size)
    policy = _policy(options, level, cost, capacity, len(scheduler.kv_cache_config.kv_cache_groups))
    told = [] if options.service is None else _told(scheduler, level)
    if told:
        policy = ServiceLeases(policy)
    admission = parse_admission(options.admission if level >= Level.ADMIT else "fcfs")
    tier = _tier(scheduler, options, level, cost)
    residency = Residency(policy, capacity, options.max_contexts, admission, _footing(scheduler, level), tier)
    host = Host(residency, block_size=size, receipts=options.receipts, level=level)
    rule = parse_chunking(options.chunking if _may_cut(scheduler, level) else "off")
    scheduler.pacer = Pacer(host, rule, profile, options.profile is not None, size)

    _queue(scheduler, host)
    mode = _adopt(scheduler, host, options, cost)
    pool = scheduler.kv_cache_manager.block_pool
    if tier:
        scheduler.porter = Porter(host, scheduler.kv_cache_manager, tier, cost, block_bytes(scheduler.kv_cache_config))
        if options.profile is not None:
            scheduler.porter.reprice(cost)
    if options.service is not None and told:
        carrier = CourierProcess(*parse_service(options.service))
        scheduler.link = Link(host, pool, carrier, profile, size, options.engine, groups=told)
        scheduler.link.start()
    host.meter.set("agentcache_build_info", 1, agentcache.__version__, version_of_vllm(), str(level), mode)
    host.meter.set("agentcache_policy_active", 1, policy.name if level >= Level.ORDER else "vllm-lru", "all")
    if scheduler.log_stats:
        host.page = Page(
            host.meter,
            lambda: gauge(host, pool, size),
            str(config.model_config.served_model_name),
            str(config.parallel_config.data_parallel_index),
        )
        host.page.start()
    logger.info(
        "AgentCache: level %s%s, policy %s, admission %s, chunking %s, reuse %s, mode %s, %d blocks in %d KV groups",
        level,
        f" ({why})" if why else "",
        policy.name if level >= Level.ORDER else "vllm-lru",
        options.admission if level >= Level.ADMIT else "fcfs",
        rule.mode,
        policy.reuse,
        mode,
        capacity,
        len(scheduler.kv_cache_config.kv_cache_groups),
    )
    return host


def _tier(scheduler: Any, options: EngineOptions, level: Level, cost: CostModel) -> Tier | None:
    """Host memory below the pool, where it is asked for and can be had.

    Raises `ConfigError` for some that is too small, and for some beside a KV connector.
    """
    if options.host_memory is None:
        return None
    config, groups = scheduler.vllm_config, scheduler.kv_cache_config
    if config.kv_transfer_config:
        raise beside_connector(options.host_memory, f"KV connector {config.kv_transfer_config.kv_connector}")
    if why := why_not(config, groups) or ("its blocks leave the pool in vLLM's own order" * (level < Level.ORDER)):
        logger.warning("AgentCache: no host memory is taken: %s", why)
        return None
    places = places_of(config, groups)
    logger.info("AgentCache: %d blocks of host memory below the pool, policy %s", places, options.host_policy)
    return Tier(make_online_policy(options.host_policy, cost, places), places)


def _footing(scheduler: Any, level: Level) -> Footing:
    """What contexts take of the pool; at `holes` it has one group, and each key takes a block.

    So it is taken to be where the KV groups are of kinds that nobody has thought of: a guess must not end a start.
    """
    if level is Level.HOLES:
        return ONE_GROUP
    try:
        return footing_of(
            scheduler.kv_cache_config,
            scheduler.hash_block_size,
            scheduler.vllm_config.max_in_flight_tokens,
            dcp=scheduler.dcp_world_size,
            eagle=scheduler.use_eagle_block_drop,
            dead_first=level >= Level.ORDER,
        )
    except Exception:
        logger.exception("AgentCache: what contexts take of these KV groups is not known: a block a key is assumed")
        return ONE_GROUP


def _reaches(scheduler: Any) -> Sequence[Reach]:
    """How far ahead blocks of each KV group are of use; of kinds that nobody has thought of, as far as chains go."""
    groups = scheduler.kv_cache_config.kv_cache_groups
    try:
        return reaches_of(groups, scheduler.hash_block_size, scheduler.block_size, scheduler.use_eagle_block_drop)
    except Exception:
        logger.exception("AgentCache: how far these KV groups reach is not known: all their blocks are kept alike")
        return [None] * len(groups)


def _policy(options: EngineOptions, level: Level, cost: CostModel, capacity: int, groups: int) -> Policy:
    """What is asked for; where holes are not reused, an order that is made for unbroken prefixes."""
    policy = make_online_policy(options.policy, cost, capacity)
    if level is Level.HOLES or policy.reuse == "prefix":
        return policy
    layer, plus, order = options.policy.rpartition("+")
    # Over several groups a tail is a state or a window too: there our index has not been measured.
    if order.partition(":")[0] == "return-index" and groups == 1:
        order += f"{',' if ':' in order else ':'}reuse=prefix"
    else:
        if level is Level.ORDER:
            logger.info("AgentCache: %s orders for reuse behind holes, not had here: lru-live does instead", order)
        order = "lru-live"
    return make_online_policy(f"{layer}{plus}{order}", cost, capacity)


def _told(scheduler: Any, level: Level) -> list[int]:
    """The KV groups that the residency service is told of, first one of full attention with a block for each key.

    None where there is no such group, or blocks are vLLM's own: the service is not joined then.
    """
    groups, size, reaches = scheduler.kv_cache_config.kv_cache_groups, scheduler.hash_block_size, _reaches(scheduler)
    found = [at for at, group in enumerate(groups) if reaches[at] is None and group.kv_cache_spec.block_size == size]
    if level >= Level.ORDER and found:
        return [found[0], *(at for at in range(len(groups)) if at != found[0])]
    logger.warning(
        "AgentCache: the residency service is not joined: at level %s, with these KV groups, the blocks of a context "
        "cannot be told",
        level,
    )
    return []


def _may_cut(scheduler: Any, level: Level) -> bool:
    """Whether chunks may be cut anywhere: drafts and states have places of their own, and some prompts come whole."""
    return level is Level.HOLES or not (
        scheduler.need_mamba_block_aligned_split
        or scheduler.num_spec_tokens
        or not scheduler.scheduler_config.enable_chunked_prefill
    )


def _adopt(scheduler: Any, host: Host, options: EngineOptions, cost: CostModel) -> str:
    """Adopt what the level takes of the scheduler's manager, block table and pool; returns the mode of reuse."""
    manager = scheduler.kv_cache_manager
    if host.level is Level.ORDER:
        adopt(manager.block_pool, BlockPool, ResidencyBlockPool).attach(host, _reaches(scheduler))
    if host.level < Level.HOLES:
        return "stock"
    reason = why_not_fused(scheduler.vllm_config)
    fused = options.mode == "fused" and not reason
    if options.mode == "fused" and reason:
        logger.warning("AgentCache: mode sequential, one hole a step: %s", reason)
    adopt(manager, KVCacheManager, ResidencyKVCacheManager)
    most, reuse = options.max_segments, host.residency.policy.reuse
    manager.attach(host, reuse == "holes", most, most if fused else 1, cost)
    adopt(manager.group, FullAttentionManager, HoleFillingManager).attach()
    adopt(manager.block_pool, BlockPool, HoleFillingBlockPool).attach(host)
    return "fused" if fused else "sequential"


def _queue(scheduler: Any, host: Host) -> None:
    """Where admission has a rule, its queue stands in the place of vLLM's."""
    admission = host.residency.admission
    if not admission:
        return
    scheduler.waiting = RankedQueue(host)  # nothing waits yet
    host.priorities = admission.config.priority or scheduler.vllm_config.scheduler_config.policy == "priority"
    admission.on_hold_end = host.held
