"""The command `agentcache peers`: starts one server after the other and replays the same jobs on each, over HTTP."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentcache.errors import ConfigError, EngineError
from agentcache_workloads.replay.accounts.provenance import describe_trace
from agentcache_workloads.replay.commands.flags import gathered
from agentcache_workloads.replay.commands.outcome import describe_run, progress, show, write_result
from agentcache_workloads.replay.commands.peer_rows import write_rows
from agentcache_workloads.replay.commands.peer_servers import Peer, Peers, load_peers, started
from agentcache_workloads.replay.commands.prepare import prepare
from agentcache_workloads.replay.engines.table import ENGINES
from agentcache_workloads.replay.spec import Options


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
    described: dict[str, Any] = {"file": trace.name}
    try:
        for peer in chosen:
            try:
                with started(peer, given) as url:
                    described = _drive(_asked(peer, given, trace=trace, url=url, json=json_path, html=html_path), runs)
            except EngineError as error:
                left_out.append({"policy": peer.name, "admission": peer.admission, "reason": error.message})
                print(f"{peer.name} is left out: {error.message}", file=sys.stderr)
            if runs and runs[-1]["interrupted"]:
                break
    finally:
        if runs:
            result = write_result(json_path, html_path, described, runs, left_out=left_out)
            if csv_path:
                write_rows(result, csv_path)
    if not runs:
        raise EngineError("no server could be started, so nothing was replayed")
    show(runs)


def _asked(peer: Peer, given: Peers, **more: Any) -> Options:
    """What is asked of one server: what `agentcache replay` would be told."""
    seeds = ",".join(map(str, given.seeds))
    ours = {"engine": "http", "policies": peer.name, "admission": peer.admission, "seeds": seeds, **more}
    return gathered(Options, {**given.jobs, "output": given.output, **ours})


def _drive(options: Options, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Replay every seed on a server that runs; the rows go into `runs`. Returns what the trace is."""
    prepared = prepare(options)
    with progress(prepared.plan.calls) as start:
        for spec in prepared.specs:
            result = ENGINES[spec.engine].run(spec, start(f"{spec.policy}, {options.admission}, seed {spec.seed}"))
            runs.append(describe_run(prepared, spec, result))
            if result.interrupted:
                break
    return describe_trace(options.trace, prepared.plan)
