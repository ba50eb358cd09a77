"""The engines by the names that users give."""

from collections.abc import Mapping

from agentcache_workloads.replay.engines import sim
from agentcache_workloads.replay.engines.base import ReplayEngine
from agentcache_workloads.replay.engines.http import engine as http
from agentcache_workloads.replay.engines.vllm import engine as vllm
from agentcache_workloads.replay.spec import EngineName

ENGINES: Mapping[EngineName, ReplayEngine] = {"vllm": vllm, "sim": sim, "http": http}
