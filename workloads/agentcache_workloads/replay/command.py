"""The command `agentcache replay`: recorded agent jobs on a real engine, one fresh process a policy and seed."""

import json
import os
import shlex
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from agentcache.errors import ConfigError
from agentcache_workloads.replay import sim_engine, vllm_engine
from agentcache_workloads.replay.arrivals import KINDS
from agentcache_workloads.replay.metrics import run_object
from agentcache_workloads.replay.plan import Selection
from agentcache_workloads.replay.prepare import Options, Prepared, prepare
from agentcache_workloads.replay.provenance import commit, describe_host, describe_trace
from agentcache_workloads.replay.spec import STOCK
from agentcache_workloads.replay.table import result_table

SCHEMA = "agentcache-replay/1"
ENGINES = {"vllm": vllm_engine.run, "sim": sim_engine.run}
PLAIN_WIDTH = 150  # columns of a table that goes into a file or a pipe


def replay(
    trace: Annotated[Path, typer.Argument(help="A trace, agentkv-trace/1, plain or zstd.")],
    cache_tokens: Annotated[int, typer.Option(min=1, help="Size of the KV pool, in engine tokens.")],
    engine: Annotated[str, typer.Option(help="Where the jobs run: vllm, or sim (simulated time).")] = "vllm",
    policies: Annotated[
        str, typer.Option(help=f"Policies, in order, with commas; {STOCK} is stock vLLM without the plug-in.")
    ] = f"{STOCK},lru-holes,asymcache",
    admission: Annotated[
        str, typer.Option(help="Which turns may run at once, with commas; stock vLLM has fcfs alone.")
    ] = "fcfs",
    sessions: Annotated[int | None, typer.Option(min=1, help="Jobs to take, by SHA-256 order; default all.")] = None,
    max_calls: Annotated[int | None, typer.Option(min=1, help="First calls of each job; default all.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Jobs open at once.")] = 8,
    arrival: Annotated[str, typer.Option(help="How jobs arrive: " + ", ".join(KINDS) + ".")] = "closed",
    tokens_per_block: Annotated[
        int | None, typer.Option(min=1, help="Engine tokens a block of the trace; default the trace's own.")
    ] = None,
    time_scale: Annotated[float, typer.Option(min=0.0, help="Factor on recorded pauses.")] = 1.0,
    max_ctx: Annotated[
        int | None, typer.Option(min=1, help="Prompt tokens of the trace above which a job is cut.")
    ] = None,
    max_pause: Annotated[float, typer.Option(min=0.0, help="Cap of a recorded pause in s, before scaling.")] = 600.0,
    seeds: Annotated[str, typer.Option(help="Seeds of tokens and of the jobs' order, with commas.")] = "1",
    hints: Annotated[bool, typer.Option(help="Send job ids, ends and tools with each request.")] = True,
    model: Annotated[
        str, typer.Option(help="A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama.")
    ] = "demo-llama",
    dtype: Annotated[str, typer.Option(help="Of weights and cache: float32, bfloat16, float16.")] = "float32",
    block_size: Annotated[int, typer.Option(min=1, help="Engine tokens a cache block.")] = 32,
    max_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens a step computes at most.")] = 512,
    profile: Annotated[
        Path | None, typer.Option(help="Cost profile, or h20-like, h200-like; default estimated.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Several holes a step (fused) or one (sequential).")] = "fused",
    chunking: Annotated[
        str, typer.Option(help="Prefill tokens beside decodes: adaptive:tpot=50ms, paper, fixed:N or off.")
    ] = "off",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
) -> None:
    """Replay recorded agent jobs on a real engine, or in the simulator, and compare policies by job latency.

    Closed loop: a turn is sent when what it depends on is complete and its recorded pause, scaled, has passed.
    Outputs are forced to the recorded structure, in every row. Exit codes: 0 done, 1 calls failed, 2 bad input.
    """
    prepared = prepare(
        Options(
            trace=trace,
            engine=engine,
            policies=policies,
            admission=admission,
            selection=Selection(sessions, max_calls, max_ctx, max_pause),
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
        )
    )
    signal.signal(signal.SIGTERM, _leave)  # so that a terminated replay ends its worker too
    runs = _run_all(prepared)
    result = {
        "schema": SCHEMA,
        "trace": describe_trace(trace, prepared.plan),
        "host": describe_host(),
        "commit": commit(),
        "command": shlex.join(["agentcache", *sys.argv[1:]]),
        "runs": runs,
    }
    if json_path:
        write_whole(json_path, json.dumps(result, indent=1) + "\n")
    if html_path:
        from agentcache_workloads.report.page import write_report

        write_report(result, str(html_path))
    _show(runs)
    if any(run["errors"] for run in runs):
        raise typer.Exit(1)


def _run_all(prepared: Prepared) -> list[dict[str, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    runs = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for spec in prepared.specs:
            name = f"{spec.policy}, {spec.admission}, seed {spec.seed}"
            task = progress.add_task(name, total=prepared.plan.calls)
            result = ENGINES[spec.engine](spec, partial(_advance, progress, task))
            progress.stop_task(task)
            runs.append(run_object(spec, result, prepared.live_pool))
    return runs


def _advance(progress: Progress, task: TaskID, calls: int) -> None:
    progress.update(task, completed=calls)


def _show(runs: list[dict[str, Any]]) -> None:
    from agentcache_workloads.report.summary import rows, verdict

    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(result_table(runs))
    if errors := sum(run["errors"] for run in runs):
        print(f"{errors} calls failed; their jobs are missing from the latencies.")
    print(verdict(rows(runs)))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears complete or not at all; raises `ConfigError`."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; the result is lost") from error


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
