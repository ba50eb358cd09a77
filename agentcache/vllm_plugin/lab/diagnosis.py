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
    return {"active": view.active, "loaded": agentcache.vllm_plugin.loaded_by_vllm, "classes": view.classes()}


def judge(model: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Whether AgentCache serves a model with these flags of vLLM's server, and in which mode; no weights are read.

    `mode` is fused, sequential (then `why` says why not fused), stock (left to vLLM as asked for, by the rule named) or
    None: refused, and `rule` and `why` say by what.
    """
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from vllm import EngineArgs

    from agentcache.errors import AgentCacheError
    from agentcache.vllm_plugin import compat
    from agentcache.vllm_plugin.config import check_options, load_options
    from agentcache.vllm_plugin.launch.command_line import server_argv
    from agentcache.vllm_plugin.launch.tiny_models import served_model
    from agentcache.vllm_plugin.refusals import Setup, refusal, why_not_fused
    from agentcache.vllm_plugin.steps.prices import starting_profile

    parser = EngineArgs.add_cli_args(compat.argument_parser())
    known, _ = parser.parse_known_args([*server_argv(served_model(model), {}, flags)[3:], "--skip-tokenizer-init"])
    config = EngineArgs.from_cli_args(known).create_engine_config()
    # What a start does, in its order: the options, the rules, the prices, and with them the policy.
    try:
        options = load_options(config.additional_config)
        setup = Setup(config, [], config.cache_config.block_size)
        found = refusal(setup, early=True)
        if not found:
            found = refusal(Setup(config, compat.kv_groups(config), setup.hash_block_size))
        if found:
            rule, value = found
            left = "stock" if options.on_unsupported == "stock" else None
            return {"mode": left, "rule": rule.name, "why": f"{value}, and {rule.sentence}", "hint": rule.hint}
        check_options(options, starting_profile(options.profile, config.model_config, setup.hash_block_size))
    except AgentCacheError as error:
        return {"mode": None, "rule": None, "why": error.message, "hint": error.hint}
    reason = why_not_fused(config) if options.mode == "fused" else "it was asked for"
    return {"mode": "sequential" if reason else "fused", "rule": None, "why": reason, "hint": None}


if __name__ == "__main__":
    print(json.dumps(judge(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else examine()))
