"""Simulated hosts: the very policies and residency of a live engine, over a pool that is only counted."""

from agentcache.sim.fixed import FixedRun, Turn, TurnRow, run_fixed
from agentcache.sim.pool import Pool

__all__ = ["FixedRun", "Pool", "Turn", "TurnRow", "run_fixed"]
