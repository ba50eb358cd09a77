"""The vLLM plug-in: a scheduler that keeps, evicts and reuses blocks by what they cost to rebuild. No fork, no patch.

The path of one request: `scheduler` (arrives, is scheduled, finishes) -> `kv_manager` (look-up of all its blocks,
allocation of only its holes) -> `block_pool` and `free_queue` (the policy's order) -> `host` (the core's residency).
"""

loaded_by_vllm = False
"""Whether vLLM has called `register` in this process."""


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it once in each of its processes, possibly more than once.

    It only notes the call: AgentCache is switched on by naming its scheduler class (`agentcache serve` does), so that
    an engine without those flags runs stock classes. What vLLM gains is a plug-in that it lists at start-up.
    """
    global loaded_by_vllm
    loaded_by_vllm = True
