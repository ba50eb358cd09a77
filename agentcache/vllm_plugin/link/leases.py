"""Leases that the residency service grants: jobs whose idle blocks go after all others, over any policy."""

from collections.abc import Sequence

from agentcache.model import Block, Context
from agentcache.policy.base import Policy
from agentcache.policy.leased import Lease, Leased, LeaseRule


class ByJob(LeaseRule):
    """The service grants and ends, a job at a time; the least important and soonest over gives way first."""

    def holder(self, context: Context) -> str:
        return context.job

    def rank(self, lease: Lease) -> tuple[float, ...]:
        return lease.priority, lease.until


class ServiceLeases(Leased):
    """Stands in front of whatever policy a spec asks for, under its name: no spec asks for this layer."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(ByJob(), inner)

    def offer_all(self, blocks: Sequence[Block], now: float) -> None:
        self.expire(now)  # the service counts on its ends, also where nothing is evicted
        super().offer_all(blocks, now)
