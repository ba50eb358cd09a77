"""Families whose blocks are reused behind holes in other ways than a plain decoder's: stock vLLM's tokens on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")
pytestmark = pytest.mark.vllm

AT_HOLES = {"level": "holes"}


def both(options: dict[str, Any], engine: dict[str, Any], **spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stock vLLM with blocks enough, and AgentCache in a pool in which documents evict each other."""
    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from tests.vllm_plugin.scenario import run

    stock = run(**spec, engine=engine)
    ours = run(**spec | {"pool": 40}, engine=engine | plugin_args(options))
    assert ours["classes"]["manager"].endswith(".ResidencyKVCacheManager")
    assert ours["holes"] > 0
    assert ours["after_hole"] > 0
    return stock, ours


@pytest.mark.parametrize("mode", ["fused", "sequential"])
def test_layers_that_differ_in_kv_heads(mode: str, tmp_path: Path) -> None:
    from tests.vllm_plugin.families.unlike import build

    engine = {"trust_remote_code": True, "skip_tokenizer_init": True}
    stock, ours = both(AT_HOLES | {"mode": mode}, engine, model=build(tmp_path / "unlike"), batches=8)
    assert ours["groups"] == ["UniformTypeKVCacheSpecs"]
    assert ours["tokens"] == stock["tokens"]


def test_drafts_by_ngrams() -> None:
    from tests.vllm_plugin.families.drafters import speculative_config

    stock, ours = both(AT_HOLES, {"speculative_config": speculative_config("ngram")}, batches=10)
    assert ours["tokens"] == stock["tokens"]
    assert ours["drafted"] > ours["accepted"] > 0


def test_latents_to_the_last_bit() -> None:
    from tests import forked

    found = forked.run("-m", "tests.vllm_plugin.families.latents")
    assert found.returncode == 0, found.stderr[-3000:]
    outcome = json.loads(found.stdout.splitlines()[-1])
    assert outcome["groups"] == {"MLAAttentionSpec": 1}
    assert outcome["step segments"] == 1  # sequential, though the worker could do more for others
    seen = outcome["seen"]
    assert seen["holes"] > 5
    assert seen["tokens after holes"] > 0
    assert seen["bit differences"] == 0, seen
    assert outcome["control"], "content that is wrong was not seen"
