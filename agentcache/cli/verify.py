"""The command `agentcache verify`: is reuse exact on this model, in this engine?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from agentcache.cli.output import check_json_path, write_json
from agentcache.errors import ConfigError

SCHEMA = "agentcache-verify/1"


def verify(
    model: Annotated[
        str, typer.Option(help="A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama.")
    ] = "tiny-llama",
    dtype: Annotated[str, typer.Option(help="Of weights and cache: float32 or bfloat16.")] = "float32",
    patterns: Annotated[int, typer.Option(min=1, help="Random patterns of eviction.")] = 100,
    seed: Annotated[int, typer.Option(help="Of prompts and patterns.")] = 1,
    policy: Annotated[
        str, typer.Option(help="Eviction policy of the engine; it must reuse behind holes.")
    ] = "return-index",
    mode: Annotated[str, typer.Option(help="Several holes a step (fused) or one (sequential).")] = "fused",
    paths: Annotated[str, typer.Option(help="Which paths of the scheduler: default.")] = "default",
    attention: Annotated[
        str,
        typer.Option(help="default: vLLM's for the CPU; triton: our kernels, interpreted, on vLLM's second runner."),
    ] = "default",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Evict and poison random blocks of a real engine, ask again, and compare with a cold run.

    Exit codes: 0 exact, 1 a mismatch or no proof, 2 bad input.
    """
    for flag, value, built in (
        ("--dtype", dtype, ("float32", "bfloat16")),
        ("--mode", mode, ("fused", "sequential")),
        ("--paths", paths, ("default",)),
        ("--attention", attention, ("default", "triton")),
    ):
        if value not in built:
            raise ConfigError(f"{flag} is {value!r}; nothing was started", hint="available: " + ", ".join(built))
    check_json_path(json_path)
    _check_policy(policy)

    from agentcache.vllm_plugin.cpu_env import interpret_triton, prepare

    prepare(threads=1)  # one thread adds numbers up in one order
    if attention == "triton":
        interpret_triton()
    from agentcache.vllm_plugin.models import model_dir
    from agentcache.vllm_plugin.verify.engine import Subject
    from agentcache.vllm_plugin.verify.experiment import run

    folder = model_dir(model)
    vocab_size = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{model} {dtype}", total=patterns)
        subject = Subject(folder, dtype, policy, mode, seed, attention)
        finding = run(subject, dtype, patterns, seed, vocab_size, lambda: progress.advance(task))
    result = {
        "schema": SCHEMA,
        "model": model,
        "seed": seed,
        "policy": policy,
        "mode": mode,
        "attention": attention,
        **asdict(finding),
    }
    if json_path:
        write_json(json_path, result)
    for key, value in result.items():
        print(f"{key:24}{value}")
    for failure in finding.failures:
        print(f"NOT EXACT: {failure}")
    if finding.failures:
        raise typer.Exit(1)
    print("exact: every answer is that of a cold run")


def _check_policy(spec: str) -> None:
    from agentcache.cost import CostModel, CostProfile
    from agentcache.policy import make_policy

    if make_policy(spec, CostModel(CostProfile(c_lin=1.0, c_att=1.0), 32), 1).reuse != "holes":
        raise ConfigError(
            f"--policy {spec} reuses unbroken prefixes only, so there are no holes to verify; nothing was started",
            hint="take lru-holes or asymcache",
        )
