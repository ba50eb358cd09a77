"""The vLLM plug-in: a scheduler that keeps, evicts and reuses blocks by what they cost to rebuild. No fork, no patch.

The path of one request: `scheduler` (arrives, is scheduled, finishes) -> `kv_manager` (look-up of all its blocks,
allocation of only its holes) -> `block_pool` and `free_queue` (the policy's order) -> `host` (the core's residency).
"""

import sys
from contextlib import suppress

loaded_by_vllm = False
"""Whether vLLM has called `register` in this process."""


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in each of its processes, whatever they run, of any version.

    It notes the call. AgentCache is switched on by naming its scheduler class (`agentcache serve` does), so that an
    engine without those flags runs stock classes; a command line that does so gets our metrics on its page, too.
    """
    global loaded_by_vllm
    loaded_by_vllm = True
    if any(_names_us(word) for word in sys.argv):
        from agentcache.vllm_plugin.accounts import page

        page.show()


def _names_us(word: str) -> bool:
    """Whether a word of a command line switches AgentCache on, or is a file of flags that does."""
    path = word.rpartition("=")[2]
    if path.endswith((".yaml", ".yml")):
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            return "agentcache.vllm_plugin." in file.read()
    return "agentcache.vllm_plugin." in word
