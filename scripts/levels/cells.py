"""One row of the table of levels: the real scheduler, built over an architecture's KV groups for each set of flags.

Run as a process of its own, which is a group of one rank: `python scripts/levels/cells.py NAME`, prints JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, FLAGS, Architecture
from lifted import lift

from agentcache.vllm_plugin.launch.cpu_env import prepare

BLOCKS = 1024


def write_config(one: Architecture, folder: Path) -> None:
    """The folder of a model without weights."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(one.model_type, **one.more)
    given = {name: value for name, value in config.to_dict().items() if name not in one.left_out} | one.written
    given |= {"architectures": [one.architecture], "model_type": one.model_type, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(given))


def configured(folder: Path, flags: tuple[str, ...]) -> Any:
    """vLLM's configuration for these flags of its server; raises what vLLM raises."""
    from agentcache.vllm_plugin import compat
    from agentcache.vllm_plugin.launch.command_line import server_argv

    argv = [*server_argv(str(folder), {}, flags)[3:], "--skip-tokenizer-init", "--max-model-len", "2048"]
    return compat.engine_args(argv).create_engine_config()


def level(config: Any, groups: list[Any]) -> dict[str, str | None]:
    """The level of a scheduler that is built over these groups, and why no higher one."""
    from vllm.v1.core.kv_cache_utils import generate_scheduler_kv_cache_config, resolve_kv_cache_block_sizes

    from agentcache.vllm_plugin import compat
    from agentcache.vllm_plugin.levels import Setup, verdict
    from agentcache.vllm_plugin.scheduler import AgentCacheScheduler

    config.cache_config.num_gpu_blocks = BLOCKS
    cache = generate_scheduler_kv_cache_config([compat.KVCacheConfig(BLOCKS, [], groups)])
    groups = cache.kv_cache_groups
    if len(groups) == 1:  # as an engine does when it has the groups
        config.cache_config.block_size = groups[0].kv_cache_spec.block_size
    size, hashed = resolve_kv_cache_block_sizes(cache, config)
    scheduler = AgentCacheScheduler(
        vllm_config=config,
        kv_cache_config=cache,
        structured_output_manager=compat.StructuredOutputManager(config),
        block_size=size,
        hash_block_size=hashed,
    )
    host = scheduler.agentcache
    assert host
    found = verdict(Setup(config, groups, hashed))
    assert found.level is host.level
    return {"level": str(host.level), "rule": found.rule and found.rule.name}


def row(one: Architecture) -> dict[str, Any]:
    """The KV groups of an architecture, and by flags its level; where vLLM does not start, its last words."""
    from agentcache.vllm_plugin import compat
    from agentcache.vllm_plugin.blocks.reach import kinds

    compat.init_none_hash(compat.sha256)
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_config(one, folder)
        groups = compat.kv_groups(configured(folder, ()))
        for name, flags in FLAGS.items():
            try:
                cells[name] = level(configured(folder, flags), groups)
            except Exception as error:  # whatever vLLM, or a library under it, says of this combination
                cells[name] = {"level": None, "rule": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"name": one.name, "architecture": one.architecture, "groups": kinds(groups), "cells": cells}


if __name__ == "__main__":
    prepare(threads=1)
    lift()
    print(json.dumps(row(next(one for one in ARCHITECTURES if one.name == sys.argv[1]))))
