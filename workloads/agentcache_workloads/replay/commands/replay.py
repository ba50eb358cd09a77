"""The command `agentcache replay`: recorded agent jobs on a real engine, one fresh process a policy and seed."""

import shlex
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from agentcache.errors import ConfigError
from agentcache.files import write_json
from agentcache_workloads.readers.formats import FORMATS
from agentcache_workloads.readers.pauses import MODELS
from agentcache_workloads.replay.accounts.metrics import run_object
from agentcache_workloads.replay.accounts.provenance import commit, describe_host, describe_trace
from agentcache_workloads.replay.accounts.saved import Stopped, keep, load_saved, name_of
from agentcache_workloads.replay.commands import flags
from agentcache_workloads.replay.commands.prepare import POLICIES, Prepared, prepare
from agentcache_workloads.replay.commands.table import result_table
from agentcache_workloads.replay.engines.base import BLOCK_SIZE, MODEL, Options
from agentcache_workloads.replay.engines.http.dialects import DIALECTS
from agentcache_workloads.replay.engines.table import ENGINES
from agentcache_workloads.replay.jobs.arrivals import KINDS
from agentcache_workloads.replay.jobs.known import known_tokens
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import STOCK, Remote, RunResult, RunSpec, Selection

SCHEMA = "agentcache-replay/1"
PLAIN_WIDTH = 150  # columns of a table that goes into a file or a pipe


def replay(
    trace: Annotated[Path, typer.Argument(help="A trace of any format that `agentcache trace` reads.")],
    cache_tokens: Annotated[
        int | None, typer.Option(min=1, help="Size of the KV pool, in engine tokens; a server may know it itself.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where the jobs run: vllm (in process), sim (simulated time), http (a server).")
    ] = "vllm",
    policies: Annotated[
        str | None,
        typer.Option(
            help=f"Policies, in order, with commas; {STOCK} is stock vLLM without the plug-in. Default {POLICIES}; "
            "of a server, what it says that it runs."
        ),
    ] = None,
    admission: Annotated[
        str, typer.Option(help="Which turns may run at once, with commas; stock vLLM has fcfs alone.")
    ] = "fcfs",
    sessions: flags.Sessions = None,
    max_calls: flags.MaxCalls = None,
    slots: flags.Slots = 8,
    arrival: Annotated[str, typer.Option(help="How jobs arrive: " + ", ".join(KINDS) + ".")] = "closed",
    tokens_per_block: flags.TokensPerBlock = None,
    time_scale: flags.TimeScale = 1.0,
    max_ctx: flags.MaxCtx = None,
    max_pause: Annotated[float, typer.Option(min=0.0, help="Cap of a recorded pause in s, before scaling.")] = 600.0,
    form: Annotated[
        str | None, typer.Option("--format", help="Of the trace, default by its look: " + ", ".join(FORMATS) + ".")
    ] = None,
    trace_block_size: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a block of the trace, where its format leaves that open.")
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="mooncake: put requests that extend each other into one job.")
    ] = False,
    pauses: Annotated[str | None, typer.Option(help=f"For pauses that the trace does not know: {MODELS}.")] = None,
    seeds: flags.Seeds = "1",
    hints: flags.Hints = True,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama; default {MODEL}. "
            "Of a server: the name that it serves."
        ),
    ] = None,
    dtype: flags.Dtype = "float32",
    block_size: Annotated[
        int | None, typer.Option(min=1, help=f"Engine tokens a cache block; default {BLOCK_SIZE}, or the server's.")
    ] = None,
    max_batched_tokens: flags.MaxBatchedTokens = 512,
    profile: Annotated[
        Path | None, typer.Option(help="Cost profile, or h20-like, h200-like; default estimated.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Several holes a step (fused) or one (sequential).")] = "fused",
    chunking: Annotated[
        str, typer.Option(help="Prefill tokens beside decodes: adaptive:tpot=50ms, paper, fixed:N or off.")
    ] = "off",
    url: Annotated[str | None, typer.Option(help="Of a server, for http: http://HOST:PORT.")] = None,
    output: Annotated[
        str,
        typer.Option(
            help="http: forced (the server loads our logits processor) or ignore-eos (recorded lengths, free tokens)."
        ),
    ] = "forced",
    dialect: Annotated[str, typer.Option(help="http: how hints are said: " + ", ".join(DIALECTS) + ".")] = DIALECTS[0],
    connections: Annotated[int, typer.Option(min=1, help="http: open at once at most.")] = 1024,
    timeout: Annotated[float, typer.Option(min=0.001, help="http: s without a byte that end an attempt.")] = 600.0,
    retries: Annotated[int, typer.Option(min=0, help="http: attempts after a first that brought no token.")] = 2,
    ramp: Annotated[float, typer.Option(min=0.0, help="http: s over which the slots open, one by one.")] = 0.0,
    vocab_size: Annotated[
        int | None, typer.Option(min=8, help="http: of the model, if its folder is not on this machine.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on where a run that was interrupted left --json; runs that are done stay.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
) -> None:
    """Replay recorded agent jobs on a real engine, in the simulator or on a server, and compare them by job latency.

    Closed loop: a turn is sent when what it depends on is complete and its recorded pause, scaled, has passed.
    Outputs are forced to the recorded structure, in every row. Exit codes: 0 done, 1 calls failed, 2 bad input.
    """
    prepared = prepare(
        Options(
            trace=trace,
            engine=engine,
            policies=policies,
            admission=admission,
            selection=Selection(
                sessions,
                max_calls,
                max_ctx,
                max_pause,
                form=form,
                trace_block_size=trace_block_size,
                link=link,
                pauses=pauses,
            ),
            slots=slots,
            arrival=arrival,
            cache_tokens=cache_tokens,
            tokens_per_block=tokens_per_block,
            time_scale=time_scale,
            seeds=seeds,
            hints=hints,
            model=model,
            dtype=dtype,
            block_size=block_size,
            max_batched_tokens=max_batched_tokens,
            profile=profile,
            mode=mode,
            chunking=chunking,
            json=json_path,
            html=html_path,
            remote=Remote(url, output, dialect, connections, timeout, retries, ramp) if url else None,
            vocab_size=vocab_size,
        )
    )
    signal.signal(signal.SIGTERM, _leave)  # so that a terminated replay ends its worker too
    described = describe_trace(trace, prepared.plan)
    if resume and json_path is None:
        raise ConfigError("--resume goes on from what --json holds, and there is no --json; nothing was started")
    runs: list[dict[str, Any]] = []
    try:
        _run_all(prepared, described["sha256"], json_path, resume, runs)
    finally:
        if runs:
            result = {
                "schema": SCHEMA,
                "trace": described,
                "host": describe_host(),
                "commit": commit(),
                "command": shlex.join(["agentcache", *sys.argv[1:]]),
                "runs": runs,
            }
            if json_path:
                write_json(json_path, result)
            if html_path:
                from agentcache_workloads.report.page import write_report

                write_report(result, str(html_path))
    show(runs)
    if runs[-1]["interrupted"]:
        print("Interrupted: what is done was kept" + ("; --resume goes on." if json_path else "."))
        raise typer.Exit(130)
    if any(run["errors"] for run in runs):
        raise typer.Exit(1)


def _run_all(
    prepared: Prepared, trace_sha256: str, json_path: Path | None, resume: bool, runs: list[dict[str, Any]]
) -> None:
    """Make all runs into `runs`, but those that a resumed result has; an interrupted one is the last."""
    names = [name_of(spec, trace_sha256) for spec in prepared.specs]
    done, stopped = load_saved(json_path, names) if resume and json_path else ({}, None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, spec in zip(names, prepared.specs, strict=True):
            title = f"{spec.policy}, {spec.admission}, seed {spec.seed}"
            task = progress.add_task(title, total=prepared.plan.calls)
            if name in done:
                progress.update(task, completed=prepared.plan.calls)
                runs.append(done[name])
                continue
            before = stopped.result if stopped and stopped.run == name else None
            result = run_one(spec, partial(advance, progress, task), before)
            progress.stop_task(task)
            runs.append({"run": name, **describe_run(prepared, spec, result)})
            if json_path:
                keep(json_path, Stopped(name, result) if result.interrupted else None)
            if result.interrupted:
                return


def run_one(spec: RunSpec, on_calls: Callable[[int], None], before: RunResult | None = None) -> RunResult:
    """Make one run; `before` is its first part, where it was interrupted."""
    return ENGINES[spec.engine].run(spec, on_calls, before)


def describe_run(prepared: Prepared, spec: RunSpec, result: RunResult) -> dict[str, Any]:
    """The run object, with what has to be known of the jobs for it."""
    renderer = Renderer(prepared.plan.meta, spec.tokens_per_block, spec.vocab_size, seed=0)
    known = known_tokens(prepared.plan.jobs, renderer, spec.tokens_per_block, spec.block_size, result.calls)
    return run_object(spec, result, prepared.live_pool, known, prepared.cost)


def advance(progress: Progress, task: TaskID, calls: int) -> None:
    """Show how many calls of a run have ended."""
    progress.update(task, completed=calls)


def show(runs: list[dict[str, Any]]) -> None:
    """Print the table and the verdict."""
    from agentcache_workloads.report.summary import rows, verdict

    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(result_table(runs))
    if errors := sum(run["errors"] for run in runs):
        print(f"{errors} calls failed; their jobs are missing from the latencies.")
    print(verdict(rows(runs)))


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
