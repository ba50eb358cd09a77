"""The command `agentcache peers`: starts one server after the other and replays the same jobs on each, over HTTP."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentcache.errors import ConfigError, EngineError, InputError
from agentcache.files import free_port, write_json
from agentcache_workloads.replay.accounts.provenance import commit, describe_host, describe_trace
from agentcache_workloads.replay.commands.peer_rows import write_rows
from agentcache_workloads.replay.commands.prepare import prepare
from agentcache_workloads.replay.commands.replay import SCHEMA, advance, describe_run, run_one, show
from agentcache_workloads.replay.engines.base import Options
from agentcache_workloads.replay.spec import Remote, Selection

LOGGED = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?")
"""What vLLM writes before each line of its log."""


class Jobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is replayed, as the flags of `agentcache replay` say it."""

    sessions: int | None = None
    max_calls: int | None = None
    max_ctx: int | None = None
    max_pause: float = 600.0
    slots: int = 8
    arrival: str = "closed"
    tokens_per_block: int | None = None
    time_scale: float = 1.0
    hints: bool = True
    dialect: str = "vllm-xargs"


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server: the name of its row, and the command that starts it."""

    name: str
    argv: list[str]
    admission: str = "fcfs"
    environment: dict[str, str] = {}


class Peers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A configuration. `trace` is beside the file that names it; `start_s`: how long a server may take to start."""

    trace: str
    model: str
    server: list[Peer]
    flags: list[str] = []
    output: str = "forced"
    seeds: tuple[int, ...] = (1,)
    start_s: float = 300.0
    jobs: Jobs = Jobs()
    environment: dict[str, str] = {}


def peers(
    config: Annotated[Path, typer.Argument(help="Servers and jobs, TOML.")],
    only: Annotated[str | None, typer.Option(help="Names of the servers to run, with commas; default all.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write one row a run here.")] = None,
) -> None:
    """Replay the same jobs on several servers, one after the other, and compare them.

    Each is started, driven over HTTP with the same output mode, and ended. One that does not start is left out, with
    its reason. Exit codes: 0 done, 1 calls failed, or no server started, 2 bad input.
    """
    given = load_peers(config)
    chosen = [peer for peer in given.server if only is None or peer.name in only.split(",")]
    if not chosen:
        raise ConfigError(
            f"--only is {only!r}: no server has such a name; nothing was started",
            hint="known: " + ", ".join(peer.name for peer in given.server),
        )
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    trace = (config.parent / given.trace).resolve()
    runs: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    described: dict[str, Any] | None = None
    try:
        for peer in chosen:
            try:
                with started(peer, given) as url:
                    described = _drive(peer, given, trace, url, json_path, html_path, runs)
            except EngineError as error:
                left_out.append({"policy": peer.name, "admission": peer.admission, "reason": error.message})
                print(f"{peer.name} is left out: {error.message}", file=sys.stderr)
            if runs and runs[-1]["interrupted"]:
                break
    finally:
        if runs:
            result = {
                "schema": SCHEMA,
                "trace": described or {"file": trace.name},
                "host": describe_host(),
                "commit": commit(),
                "command": shlex.join(["agentcache", *sys.argv[1:]]),
                "left_out": left_out,
                "runs": runs,
            }
            if json_path:
                write_json(json_path, result)
            if html_path:
                from agentcache_workloads.report.page import write_report

                write_report(result, str(html_path))
            if csv_path:
                write_rows(result, csv_path)
    if not runs:
        raise EngineError("no server could be started, so nothing was replayed")
    show(runs)
    if runs[-1]["interrupted"]:
        raise typer.Exit(130)
    if any(run["errors"] for run in runs):
        raise typer.Exit(1)


def load_peers(path: Path) -> Peers:
    """Read a configuration; raises `InputError`."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Peers)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} cannot be read as peers: {error}; nothing was started") from error


def _drive(
    peer: Peer,
    given: Peers,
    trace: Path,
    url: str,
    json_path: Path | None,
    html_path: Path | None,
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """Replay every seed on a server that runs; the rows go into `runs`. Returns what the trace is."""
    jobs = given.jobs
    prepared = prepare(
        Options(
            trace=trace,
            engine="http",
            policies=peer.name,
            admission=peer.admission,
            selection=Selection(jobs.sessions, jobs.max_calls, jobs.max_ctx, jobs.max_pause),
            slots=jobs.slots,
            arrival=jobs.arrival,
            tokens_per_block=jobs.tokens_per_block,
            time_scale=jobs.time_scale,
            seeds=",".join(map(str, given.seeds)),
            hints=jobs.hints,
            json=json_path,
            html=html_path,
            remote=Remote(url, given.output, jobs.dialect),
        )
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for spec in prepared.specs:
            title = f"{spec.policy}, {peer.admission}, seed {spec.seed}"
            task = progress.add_task(title, total=prepared.plan.calls)
            result = run_one(spec, partial(advance, progress, task))
            progress.stop_task(task)
            runs.append(describe_run(prepared, spec, result))
            if result.interrupted:
                break
    return describe_trace(trace, prepared.plan)


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
    from agentcache.vllm_plugin.launch.tiny_models import RECIPES, model_dir

    return model_dir(name) if name in RECIPES else name


def _fill(word: str, port: int, model: str) -> str:
    known = {"python": sys.executable, "bin": str(Path(sys.executable).parent), "port": str(port), "model": model}
    for name, value in known.items():
        word = word.replace(f"{{{name}}}", value)
    return word
