"""One replica with our attention kernels, interpreted: the whole path under Ray, down to segments behind holes."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="the replica is vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")
pytest.importorskip("triton", reason="the kernels are Triton's")

from tests.service.started import started

pytestmark = [pytest.mark.vllm, pytest.mark.ray]


def test_answers_are_the_same_before_and_after_eviction(tmp_path: Path) -> None:
    flags = ["--policy", "asymcache", "--attention-backend", "CUSTOM", "--max-model-len", "128"]
    env = {"TRITON_INTERPRET": "1"}
    with started(tmp_path, *flags, "--num-gpu-blocks-override", "6", env=env) as app:
        answers: dict[int, str] = {}
        for document in (3, 4, 5, 3, 4, 5):  # each has two full blocks, and five blocks are all there are
            prompt = [(document * 97 + 31 * i) % 400 + 5 for i in range(84)]
            body = {"model": "tiny-llama", "prompt": prompt, "max_tokens": 2, "temperature": 0}
            answer = app.http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            text = answer.json()["choices"][0]["text"]
            assert answers.setdefault(document, text) == text
        assert sum(app.metric("agentcache_evicted_blocks_total").values()) > 0
        assert 'mode="fused"' in app.http.get("/metrics").text
