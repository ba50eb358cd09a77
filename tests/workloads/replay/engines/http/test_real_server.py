"""The HTTP engine against `agentcache serve` on a CPU: one server start, all dialects."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentcache_workloads.replay.commands.peer_servers import Peer, Peers, started
from agentcache_workloads.replay.engines.http.server import parse_metrics
from tests.command import AGENTCACHE

FLAGS = [
    *("--port", "{port}", "--dtype", "float32", "--block-size", "32", "--num-gpu-blocks-override", "201"),
    *("--max-model-len", "6000", "--max-num-batched-tokens", "512", "--enforce-eager", "--skip-tokenizer-init"),
    *("--enable-prompt-tokens-details", "--logits-processors"),
    "agentcache_workloads.replay.engines.vllm.forced:ForcedOutput",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    peer = Peer("lru-holes", ["{python}", "-c", AGENTCACHE[-1], "serve", "{model}", "--policy", "lru-holes"])
    environment = {"OMP_NUM_THREADS": "1", "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    with started(peer, Peers("", "tiny-llama", [], FLAGS, environment=environment)) as url:
        yield url


def replay(tiny: Path, url: str, out: Path, *more: object) -> dict[str, Any]:
    flags = ["--engine", "http", "--url", url, "--tokens-per-block", 2, "--max-calls", 4, "--slots", 3]
    command = [*AGENTCACHE, "replay", tiny, *flags, "--time-scale", 0, "--json", out, *more]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, env={**os.environ})
    assert done.returncode == 0, done.stderr + done.stdout
    run: dict[str, Any] = json.loads(out.read_text())["runs"][0]
    assert (run["policy"], run["cache_tokens"]) == ("lru-holes", 6400)  # by the server's own word
    assert (run["jobs"], run["calls"], run["errors"]) == (6, 24, 0)
    assert run["client"]["cache_reset"]
    assert 0 < run["cached_tokens"] < run["prompt_tokens"]
    return run


def said(url: str, source: str) -> float:
    return parse_metrics(httpx.get(f"{url}/metrics").text).total("agentcache_hints_total", source=source) or 0.0


@pytest.mark.vllm
def test_a_real_server_in_every_dialect_and_both_output_modes(url: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    # Forced: every answer was compared with the recorded one, token by token, or the call would be an error.
    forced = replay(tiny, url, out)
    assert (forced["output_mode"], forced["dialect"]) == ("forced", "vllm-xargs")
    assert forced["hit_rate"]["request"] > 0
    assert forced["evictions"] > 0
    assert forced["holes_per_call"]["mean"] is not None
    assert forced["cached_tokens_after_hole"] > 0
    assert forced["recomputed_tokens"] > 0
    assert forced["ttft_s"]["all"]["mean"] > 0
    assert forced["itl_s"]["p50"] > 0
    xargs = said(url, "vllm_xargs")
    assert xargs > 0
    free = replay(tiny, url, out, "--seeds", 2, "--output", "ignore-eos", "--dialect", "continuum")
    assert free["output_mode"] == "ignore-eos"
    assert said(url, "vllm_xargs") == 2 * xargs  # the middleware has put the fields where the engine reads them
    sessions = said(url, "session_id")
    arrivals = ("--arrival", "poisson:8", "--dialect", "session-id")
    headed = replay(tiny, url, out, "--seeds", 3, "--output", "ignore-eos", *arrivals)
    assert headed["arrival"] == "poisson:8"
    assert said(url, "session_id") - sessions == 24
    assert said(url, "vllm_xargs") == 2 * xargs
