"""Serve's own application for language models takes the plug-in and the router as they are."""

import re

import pytest

from tests.service.children import outcome

pytest.importorskip("vllm", reason="the replicas are vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")
pytest.importorskip("ray.serve.llm", reason="the package of ray[llm] is not complete here", exc_type=ImportError)
pytestmark = [pytest.mark.ray, pytest.mark.vllm]


def test_turns_meet_their_contexts_under_ray_serve_llm() -> None:
    told, said = outcome("tests.service.serve_llm", "named", timeout_s=580)
    for kind in ("named", "nameless"):
        assert all(turn["cached_tokens"] > 400 for turn in told[kind]), told
    # Half of them by chance, if nobody knew; and they were not all in one place.
    assert len(set(re.findall(r"LLMServer:tiny-llama (\w+) \S+ -- CALL completions OK", said))) == 2
    assert "agentcache.vllm_plugin.scheduler" in said
