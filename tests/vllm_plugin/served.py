"""vLLM's OpenAI server with AgentCache on, its engines in other processes; and what its page of metrics says."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agentcache.files import free_port
from agentcache.vllm_plugin.launch.command_line import server_argv
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV
from agentcache.vllm_plugin.launch.tiny_models import model_dir
from tests.waiting import until

FLAGS = (
    "--dtype float32 --max-model-len 1024 --enforce-eager --max-num-seqs 8 --block-size 32 --seed 0 "
    "--max-num-batched-tokens 256 --num-gpu-blocks-override 60 --served-model-name tiny --enable-prompt-tokens-details"
)


@contextmanager
def served(log: Path, *flags: str, end_s: float = 30, **env: str) -> Iterator[str]:
    """The URL of a server with these flags beside the usual ones, which ends within `end_s` or is killed."""
    port = free_port()
    every = CPU_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        argv = server_argv(
            model_dir("tiny-llama"),
            {"policy": "lru-holes"},
            [*FLAGS.split(), "--host", "127.0.0.1", "--port", str(port), *flags],
        )
        server = subprocess.Popen(argv, env=os.environ | every | env, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", server, log)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(end_s)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
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


def metric(url: str, name: str, label: str = "") -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and label in line)


def metric_once(url: str, name: str, label: str, is_fine: Callable[[float], bool]) -> float:
    """A number of ours when it has become what it should: the engine puts its numbers on the page twice a second."""
    return until(lambda: [value] if is_fine(value := metric(url, name, label)) else None)[0]
