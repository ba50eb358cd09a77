"""Looks at a tiny engine with AgentCache on, or judges a model without its weights: `... doctor [MODEL [FLAG...]]`."""

import json
import sys
from collections.abc import Sequence
from typing import Any


def examine() -> dict[str, Any]:
    """Classes and mode of a started engine, and whether vLLM has loaded the plug-in in this process."""
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine

    import agentcache.vllm_plugin
    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("tiny-llama"),
            max_model_len=512,
            block_size=32,
            num_gpu_blocks_override=32,
            enforce_eager=True,
            use_tqdm_on_load=False,
            **plugin_args({}),
        )
    )
    view = LookInside(engine)
    view.check()
    return {
        "active": view.active,
        "level": str(view.host.level) if view.host else None,
        "loaded": agentcache.vllm_plugin.loaded_by_vllm,
        "classes": view.classes(),
    }


def judge(model: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """At which level AgentCache serves a model with these flags of vLLM's server; no weights are read.

    `level` is holes, order, admit, off, or None: left to vLLM as was asked for (`mode` is stock), or not started. `why`
    says why no higher one, by the rule named; at holes, why `mode` is sequential and not fused.
    """
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from agentcache.errors import AgentCacheError
    from agentcache.vllm_plugin import compat
    from agentcache.vllm_plugin.config import check_options, load_options
    from agentcache.vllm_plugin.launch.command_line import server_argv
    from agentcache.vllm_plugin.launch.tiny_models import served_model
    from agentcache.vllm_plugin.levels import Level, Setup, choose, verdict, why_not_fused
    from agentcache.vllm_plugin.steps.prices import starting_profile

    argv = [*server_argv(served_model(model), {}, flags)[3:], "--skip-tokenizer-init"]
    config = compat.engine_args(argv).create_engine_config()
    # What a start does, in its order: the options, the rules, the prices, and with them the policy.
    try:
        options = load_options(config.additional_config)
        setup = Setup(config, [], config.cache_config.block_size)
        found = verdict(setup, early=True)
        if found.level > Level.ADMIT:  # no KV group could lower it further
            found = verdict(Setup(config, compat.kv_groups(config), setup.hash_block_size))
        level = choose(found, options)
        told = {"rule": found.rule and found.rule.name, "why": found.why, "hint": found.rule and found.rule.hint}
        if level is None:
            return {"level": None, "mode": "stock", **told}
        check_options(options, starting_profile(options.profile, config.model_config, setup.hash_block_size))
    except AgentCacheError as error:
        return {"level": None, "mode": None, "rule": None, "why": error.message, "hint": error.hint}
    if level < Level.HOLES:
        asked = {"rule": None, "why": "it was asked for", "hint": None}
        return {"level": str(level), "mode": "stock", **(told if level is found.level else asked)}
    reason = why_not_fused(config) if options.mode == "fused" else "it was asked for"
    return {"level": "holes", "mode": "sequential" if reason else "fused", "rule": None, "why": reason, "hint": None}


if __name__ == "__main__":
    print(json.dumps(judge(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else examine()))
