"""What stands in an engine now, for the gauges: the pool, and who admission lets run."""

from typing import Any

from agentcache.policy.guard import Guard
from agentcache.vllm_plugin.accounts.metrics import Meter
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.levels import Level


def gauge(host: Host, pool: Any, block_size: int) -> None:
    """Write the gauges. From any thread: it reads numbers that the scheduler keeps, which may be of two steps."""
    meter, residency = host.meter, host.residency
    free = pool.get_num_free_blocks()
    running = pool.num_gpu_blocks - 1 - free  # one is vLLM's null block
    states = {"running": running, "free": free}
    if host.level >= Level.ORDER:  # below, nobody knows what vLLM's own free blocks hold
        useless = pool.free_block_queue.num_useless_blocks
        states |= {"paused": free - useless, "free": useless}
    for state, blocks in states.items():
        meter.set("agentcache_resident_tokens", blocks * block_size, "gpu", state)
    if tier := residency.tier:
        meter.set("agentcache_resident_tokens", tier.held_blocks * block_size, "host", "paused")
        meter.set("agentcache_resident_tokens", (tier.capacity_blocks - tier.held_blocks) * block_size, "host", "free")
    conflicts = {"turn": residency.ignored_events}
    if admission := residency.admission:
        conflicts |= {"identity": admission.counts.clashes, "end": admission.counts.false_ends}
        meter.set("agentcache_held_turns", admission.held_turns)
        meter.set("agentcache_working_set_tokens", admission.choice.used_blocks * block_size)
        meter.set("agentcache_working_set_jobs", len(admission.choice.members))
    if claims := getattr(residency.policy, "conflicts", None):  # a retention layer's
        conflicts |= {kind: getattr(claims, kind) for kind in claims.__dataclass_fields__}
    meter.set("agentcache_receipts_dropped_total", host.receipts.dropped)
    if guard := getattr(residency.policy, "guard", None):
        count_regret(guard, meter)
    for kind, total in conflicts.items():
        meter.set("agentcache_hint_conflicts_total", total, kind)


def count_regret(guard: Guard, meter: Meter) -> None:
    """What the policy has paid and what LRU would have: the ratio of the two, less 1, is the regret."""
    meter.set("agentcache_prefill_seconds_total", guard.paid_s, "live")
    meter.set("agentcache_prefill_seconds_total", guard.shadow_s, "lru")
    meter.set("agentcache_policy_fallbacks_total", guard.rests)
