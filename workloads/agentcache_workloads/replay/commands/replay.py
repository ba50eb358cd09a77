"""The command `agentcache replay`: recorded agent jobs on a real engine, one fresh process a policy and seed."""

import signal
from types import FrameType
from typing import Annotated, Any

from typer import Option

from agentcache.errors import ConfigError
from agentcache_workloads.replay.accounts.provenance import describe_trace
from agentcache_workloads.replay.accounts.saved import Stopped, keep, load_saved, name_of
from agentcache_workloads.replay.commands.flags import taking
from agentcache_workloads.replay.commands.outcome import describe_run, progress, show, write_result
from agentcache_workloads.replay.commands.prepare import Prepared, prepare
from agentcache_workloads.replay.engines.table import ENGINES
from agentcache_workloads.replay.spec import Options


@taking(Options)
def replay(
    options: Options,
    resume: Annotated[
        bool, Option(help="Go on where a run that was interrupted left --json; runs that are done stay.")
    ] = False,
) -> None:
    """Replay recorded agent jobs on a real engine, in the simulator or on a server, and compare them by job latency.

    Closed loop: a turn is sent when what it depends on is complete and its recorded pause, scaled, has passed.
    Outputs are forced to the recorded structure, in every row. Exit codes: 0 done, 1 calls failed, 2 bad input.
    """
    prepared = prepare(options)
    signal.signal(signal.SIGTERM, _leave)  # so that a terminated replay ends its worker too
    trace = describe_trace(options.trace, prepared.plan)
    if resume and options.json is None:
        raise ConfigError("--resume goes on from what --json holds, and there is no --json; nothing was started")
    runs: list[dict[str, Any]] = []
    try:
        _run_all(prepared, trace["sha256"], options, resume, runs)
    finally:
        if runs:
            write_result(options.json, options.html, trace, runs)
    show(runs, "Interrupted: what is done was kept" + ("; --resume goes on." if options.json else "."))


def _run_all(prepared: Prepared, trace_sha256: str, options: Options, resume: bool, runs: list[dict[str, Any]]) -> None:
    """Make all runs into `runs`, but those that a resumed result has; an interrupted one is the last."""
    names = [name_of(spec, trace_sha256) for spec in prepared.specs]
    done, stopped = load_saved(options.json, names) if resume and options.json else ({}, None)
    with progress(prepared.plan.calls) as start:
        for name, spec in zip(names, prepared.specs, strict=True):
            advance = start(f"{spec.policy}, {spec.admission}, seed {spec.seed}")
            if name in done:
                advance(prepared.plan.calls)
                runs.append(done[name])
                continue
            before = stopped.result if stopped and stopped.run == name else None
            result = ENGINES[spec.engine].run(spec, advance, before)
            runs.append({"run": name, **describe_run(prepared, spec, result)})
            if options.json:
                keep(options.json, Stopped(name, result) if result.interrupted else None)
            if result.interrupted:
                return


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
