"""The servers that `agentcache peers` compares: their configuration, and the process of each while it is driven."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec
from msgspec import structs

from agentcache.errors import EngineError, InputError
from agentcache.files import free_port
from agentcache_workloads.replay.commands.flags import flags_of
from agentcache_workloads.replay.spec import Options

LOGGED = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?")
"""What vLLM writes before each line of its log."""

SAID = (
    *("sessions", "max_calls", "max_ctx", "max_pause", "slots", "arrival", "tokens_per_block", "time_scale"),
    *("hints", "dialect"),
)
"""Flags of `agentcache replay` that a configuration may have as its `jobs`."""

Said = msgspec.defstruct(
    "Said",
    [(flag.name, flag.kind, flag.default) for flag in flags_of(Options) if flag.name in SAID],
    frozen=True,
    forbid_unknown_fields=True,
)


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server: the name of its row, and the command that starts it."""

    name: str
    argv: list[str]
    admission: str = "fcfs"
    environment: dict[str, str] = {}


class Peers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A configuration. `trace` is beside the file that names it; `start_s`: how long a server may take to start.

    `jobs`: what is replayed, by flags of `agentcache replay` (`SAID`).
    """

    trace: str
    model: str
    server: list[Peer]
    flags: list[str] = []
    output: str = "forced"
    seeds: tuple[int, ...] = (1,)
    start_s: float = 300.0
    jobs: dict[str, Any] = {}
    environment: dict[str, str] = {}


def load_peers(path: Path) -> Peers:
    """Read a configuration; raises `InputError`."""
    try:
        given = msgspec.toml.decode(path.read_bytes(), type=Peers)
        return structs.replace(given, jobs=structs.asdict(msgspec.convert(given.jobs, Said)))
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} cannot be read as peers: {error}; nothing was started") from error


@contextmanager
def started(peer: Peer, given: Peers) -> Iterator[str]:
    """The server's URL while it runs; all its processes are ended behind it.

    Raises `EngineError` with what its log says if it ends early or does not answer in time.
    """
    port = free_port()
    filled = partial(_fill, port=port, model=_model(given.model))
    environment = {**os.environ, **given.environment, **peer.environment}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [filled(word) for word in (*peer.argv, *given.flags)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the whole group
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, given.start_s, log)
            yield url
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], limit_s: float, log: IO[bytes]) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"the server ended with code {process.returncode} before it served: {reason(log)}")
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=5.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise EngineError(f"the server did not serve within {limit_s:g} s: {reason(log)}")


def reason(log: IO[bytes]) -> str:
    """What a server died of: the first line of its log that names an error, or its last line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    # Of several, the first to come is the cause; what wraps it says less, and a warning ends nothing.
    named = [
        line
        for line in lines
        if any(word in line for word in ("Error:", "Exception:"))
        and not any(word in line for word in ("Engine core", "WARNING", "INFO"))
    ]
    return LOGGED.sub("", (named or lines[-1:] or ["nothing in its log"])[0])[-300:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server's process group: by request, then by force."""
    for number, wait_s in ((signal.SIGINT, 20.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _model(name: str) -> str:
    """A small model's folder, or the name as it is."""
    from agentcache.vllm_plugin.launch.recipes import RECIPES
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    return model_dir(name) if name in RECIPES else name


def _fill(word: str, port: int, model: str) -> str:
    known = {"python": sys.executable, "bin": str(Path(sys.executable).parent), "port": str(port), "model": model}
    for name, value in known.items():
        word = word.replace(f"{{{name}}}", value)
    return word
