"""The application as `agentcache up` starts it, for tests: its process, its URL, its replicas, and its end."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from agentcache.files import free_port
from agentcache.service import local
from tests.command import AGENTCACHE

START_S = 300
ENV = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core and its worker are one process
    "VLLM_LOGGING_LEVEL": "WARNING",
}
FLAGS = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4", "--block-size", "32"]
FLAGS += ["--distributed-executor-backend", "uni"]


class App:
    """The application's process, its URL, and its replicas."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.http = httpx.Client(base_url=url, timeout=240, trust_env=False, headers=bearer("red"))

    def replicas(self) -> list[int]:
        """Process ids of the replicas of this application."""
        return self.serving("replica")

    def serving(self, deployment: str) -> list[int]:
        """Process ids of one of its deployments."""
        name = f"ray::ServeReplica:agentcache:{deployment}"
        return [pid for pid, _, args in processes(self.process.pid) if args.startswith(name)]

    def until(self, true: Callable[[], Any], limit_s: float = 240) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := true()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"not within {limit_s} s; {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        return found

    def metric(self, name: str) -> Counter[str]:
        """A metric of all replicas, by replica."""
        values: Counter[str] = Counter()
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + "{"):
                values[line.split('replica="')[1].split('"')[0]] += float(line.rsplit(" ", 1)[1])  # type: ignore[assignment]
        return values


def processes(root: int) -> list[tuple[int, int, str]]:
    """Process id, parent and command of all that descend from a process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [
        (int(pid), int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listed.splitlines())
    ]
    family, size = {root}, 0
    while size != len(family):
        size = len(family)
        family |= {pid for pid, parent, _ in rows if parent in family}
    return [row for row in rows if row[0] in family - {root}]


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        return local.lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-{name}"}


@contextmanager
def started(folder: Path, *args: str, env: dict[str, str] | None = None) -> Iterator[App]:
    """`agentcache up` for the tenants red and blue; ended by Ctrl-C, it must leave no process and no secret."""
    entries = [
        {"name": name, "tokens_sha256": [hashlib.sha256(f"key-{name}".encode()).hexdigest()], "control_per_s": per_s}
        for name, per_s in (("red", None), ("blue", 5))
    ]
    (folder / "tenants.json").write_text(json.dumps({"tenants": entries}))
    port, log = free_port(), folder / "log"
    command = [*AGENTCACHE, "up", "--model", "tiny-llama", "--port", str(port)]
    command += ["--tenants", str(folder / "tenants.json"), *FLAGS, *args]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=os.environ | ENV | (env or {}), stdout=out, stderr=out, start_new_session=True
        )
    family: list[tuple[int, int, str]] = []
    try:
        app = App(process, f"http://127.0.0.1:{port}", log)
        app.until(lambda: b"is up" in log.read_bytes(), START_S)
        yield app
        family = processes(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = [row for row in family if lives(row[0])]
        for pid, _, _ in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0 and not left, left
    text = log.read_text(errors="replace")
    assert "key-red" not in text and "key-blue" not in text
