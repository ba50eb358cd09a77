"""Starts a tiny engine with AgentCache on and says what runs in it: `python -m agentcache.vllm_plugin.doctor`."""

import json
import sys
from typing import Any


def examine(model: str) -> dict[str, Any]:
    """Classes of a started engine, and whether vLLM has loaded the plug-in in this process."""
    from agentcache.vllm_plugin.cpu_env import prepare

    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine

    import agentcache.vllm_plugin
    from agentcache.vllm_plugin.inspect import EngineView
    from agentcache.vllm_plugin.models import model_dir
    from agentcache.vllm_plugin.serve import plugin_args

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir(model),
            max_model_len=512,
            block_size=32,
            num_gpu_blocks_override=32,
            enforce_eager=True,
            use_tqdm_on_load=False,
            **plugin_args({}),
        )
    )
    view = EngineView(engine)
    view.check()
    return {"active": view.active, "loaded": agentcache.vllm_plugin.loaded_by_vllm, "classes": view.classes()}


if __name__ == "__main__":
    print(json.dumps(examine(sys.argv[1])))
