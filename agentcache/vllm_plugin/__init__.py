"""The vLLM plug-in: a scheduler that keeps, evicts and reuses blocks by what they cost to rebuild. No fork, no patch.

The path of one request: `scheduler` (arrives, is scheduled, finishes) -> `kv_manager` (look-up of all its blocks,
allocation of only its holes) -> `block_pool` and `free_queue` (the policy's order) -> `host` (the core's residency).
"""

loaded_by_vllm = False
"""Whether vLLM has called `register` in this process."""


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it once in each of its processes, possibly more than once.

    It notes the call and gives the name `CUSTOM` to our attention backend. AgentCache is switched on by naming its
    scheduler class (`agentcache serve` does), so that an engine without those flags runs stock classes.
    """
    global loaded_by_vllm
    loaded_by_vllm = True
    from agentcache.vllm_plugin import compat

    compat.register_backend(
        compat.AttentionBackendEnum.CUSTOM, "agentcache.vllm_plugin.attention.backend.SegmentBackend"
    )
