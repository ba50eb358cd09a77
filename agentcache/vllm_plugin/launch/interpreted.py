"""Run first in a spawned process, it has Triton kernels interpreted there: see `interpret_in_children`."""

from agentcache.vllm_plugin.launch.cpu_env import interpret_triton

interpret_triton()
