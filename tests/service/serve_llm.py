"""A child process that runs `ray.serve.llm` with the plug-in in its engines and the residency router before them.

Sessions ask twice; outcome as JSON on stdout.
"""

import asyncio
import json
import os
import sys
from typing import Any

import httpx
import ray
from ray import serve

from agentcache.vllm_plugin.launch.command_line import plugin_args
from agentcache.vllm_plugin.launch.tiny_models import model_dir

MODEL = "tiny-llama"
SESSIONS = 8
ENV = {"VLLM_CPU_CI_ENV": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "block_size": 32,
    "num_gpu_blocks_override": 128,
    "max_num_seqs": 4,
    "gpu_memory_utilization": 0.05,  # of the machine's memory, on a CPU
    "enable_prompt_tokens_details": True,
}


def application() -> Any:
    from ray.serve.llm import LLMConfig, build_openai_app

    config = LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": model_dir(MODEL)},
        engine_kwargs=ENGINE | plugin_args({"policy": "asymcache"}),
        deployment_config={
            "num_replicas": 2,
            "request_router_config": {"request_router_class": "agentcache.service.router:ResidencyRouter"},
        },
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": ENV | {"PYTHONPATH": os.environ["PYTHONPATH"]}},
        log_engine_metrics=False,
    )
    return build_openai_app({"llm_configs": [config]})


async def turns(url: str, named: bool) -> list[dict[str, Any]]:
    """What every session's second turn found cached; its text is what tells a session without a name."""

    async def turn(http: httpx.AsyncClient, session: int, prompt: str) -> dict[str, Any]:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "temperature": 0}
        answer = await http.post(
            "/v1/completions", json=body, headers={"X-Session-ID": f"s-{session}"} if named else {}
        )
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return {"text": told["choices"][0]["text"], **told["usage"]["prompt_tokens_details"]}

    async with httpx.AsyncClient(base_url=url, timeout=240, trust_env=False) as http:
        prompts = [f"{session}{named} " * 80 for session in range(SESSIONS)]
        await asyncio.gather(*(turn(http, session, prompt) for session, prompt in enumerate(prompts)))
        return [await turn(http, session, prompts[session] + "more") for session in range(SESSIONS)]


def main() -> None:
    port = int(sys.argv[1])
    ray.init(address="local", num_cpus=8, include_dashboard=False, object_store_memory=128 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(), name="llm")
        url = f"http://127.0.0.1:{port}"
        print(json.dumps({kind: asyncio.run(turns(url, kind == "named")) for kind in ("named", "nameless")}))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
