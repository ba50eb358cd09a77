"""Eviction policies: which resident blocks go first. `registry` builds one from what a user types."""

from agentcache.policy.base import Policy, Reuse
from agentcache.policy.registry import GROUP, layers, make_online_policy, make_policy, names

__all__ = ["GROUP", "Policy", "Reuse", "layers", "make_online_policy", "make_policy", "names"]
