"""The state that every host shares: contexts, blocks, and the policy over them."""

from agentcache.residency.residency import Residency

__all__ = ["Residency"]
