"""The command `agentcache profile`: what steps cost on this engine, measured and fitted."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agentcache.errors import ConfigError
from agentcache.files import write_whole

POINTS, REPEATS, MAX_LEN = 120, 3, 4096
FULL_POINTS, FULL_REPEATS = 1000, 5

BOUNDS = 0.05, 0.15
"""Relative errors on the points left out, median and 95th percentile, up to which a profile is accepted."""

BUSY = 1.25
"""Longest over shortest repeat of a typical step, above which the machine was not ours."""

UNITS = {
    "c0": "s a step",
    "c_seg": "s a further segment",
    "c_lin": "s a prefill token",
    "c_load": "s a resident token linked",
    "c_att": "s a token squared",
    "c_dec": "s a decode",
    "c_kv": "s a context token of a decode",
}


def profile(
    out: Annotated[Path, typer.Option(help="Write the profile here, and its residual plot beside it (.svg).")],
    model: Annotated[
        str, typer.Option(help="A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama.")
    ] = "demo-llama",
    dtype: Annotated[str, typer.Option(help="Of weights and cache: float32, bfloat16, float16.")] = "float32",
    block_size: Annotated[int, typer.Option(min=1, help="Engine tokens a cache block.")] = 32,
    max_batched_tokens: Annotated[int, typer.Option(min=64, help="Largest chunk of a step.")] = 2048,
    max_len: Annotated[
        int | None, typer.Option(min=256, help=f"Longest context; default {MAX_LEN}, with --full the model's.")
    ] = None,
    points: Annotated[int | None, typer.Option(min=30, help=f"Shapes of steps; default {POINTS}.")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help=f"Of each, the shortest counts; default {REPEATS}.")
    ] = None,
    full: Annotated[bool, typer.Option(help=f"The whole grid: {FULL_POINTS} points, {FULL_REPEATS} repeats.")] = False,
    seed: Annotated[int, typer.Option(help="Of tokens and of the order of points.")] = 1,
) -> None:
    """Measure what steps cost on a live engine, and fit a cost profile.

    Exit codes: 0 written (with a warning where the fit is poor), 1 the engine failed, 2 bad input.
    """
    _refuse(out, max_batched_tokens, block_size)
    from agentcache.vllm_plugin.lab.profiling.grid import phases
    from agentcache.vllm_plugin.launch.cpu_env import prepare
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    folder = model_dir(model)
    limit, vocab_size = _limits(folder)
    longest = min(max_len or (limit if full else MAX_LEN), limit - 1) // block_size * block_size
    plan = phases(points or (FULL_POINTS if full else POINTS), longest, max_batched_tokens, block_size, seed)
    repeats = repeats or (FULL_REPEATS if full else REPEATS)

    prepare()
    from agentcache.vllm_plugin.lab.profiling.measure import Subject, described

    begun = time.perf_counter()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(model, total=repeats * sum(len(phase.shapes) for phase in plan))
        subject = Subject(folder, dtype, block_size, longest, max_batched_tokens, vocab_size, seed)
        steps = subject.measure(plan, repeats, lambda: progress.advance(task))

    from agentcache.cost.fit import fit

    found = fit(steps, described(subject))
    found.profile.save(out)
    from agentcache.vllm_plugin.lab.profiling.plot import residual_svg

    title = f"{found.profile.model} on {found.profile.device}: relative error of the fitted step times"
    write_whole(out.with_suffix(".svg"), residual_svg(found.points, title))
    _show(found, time.perf_counter() - begun, repeats)
    if subject.disturbance > BUSY:
        print(f"warning: repeats of a step differ by a factor of {subject.disturbance:.2f}: something else is running")
    print(f"written: {out}, {out.with_suffix('.svg')}")


def _refuse(out: Path, max_batched_tokens: int, block_size: int) -> None:
    """Raise `ConfigError` for flags with which minutes of measuring would end in nothing."""
    if out.suffix == ".svg" or out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(
            f"--out {out} cannot be written; nothing was started", hint="a file.json in a folder that exists"
        )
    if max_batched_tokens % block_size:
        raise ConfigError(
            f"--max-batched-tokens is {max_batched_tokens}, expected a multiple of the block size {block_size}; "
            "nothing was started"
        )


def _limits(folder: str) -> tuple[int, int]:
    """Context limit and size of the vocabulary."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    for name in ("max_position_embeddings", "vocab_size"):
        if not isinstance(config.get(name), int):
            raise ConfigError(
                f"{folder}/config.json has {name} {config.get(name)!r}, expected a whole number; not started"
            )
    return config["max_position_embeddings"], config["vocab_size"]


def _show(found: Any, seconds: float, repeats: int) -> None:
    result = found.profile
    for name, unit in UNITS.items():
        print(f"{name:8}{getattr(result, name):<12.3e}{unit}")
    if result.copy_bytes_per_s:
        print(f"loads   {result.copy_bytes_per_s / 1e9:<12.3g}GB/s from host memory")
    held = sum(point.held_out for point in found.points)
    print(f"{result.n_points} points x {repeats} in {seconds:.0f} s; on {held} points left out of the fit:")
    r2 = "none" if result.r2 is None else f"{result.r2:.4f}"
    print(f"R2 {r2}, relative error median {result.med_rel_err:.1%}, p95 {result.p95_rel_err:.1%}")
    if result.c_att:
        doubles = result.c_lin / (2 * result.c_att)
        print(f"a block at token {doubles:,.0f} costs twice the first one")
    if found.negative:
        print(f"warning: the grid does not tell {', '.join(found.negative)} apart from other causes")
    median, p95 = BOUNDS
    if found.accepted(median, p95):
        print(f"accepted: median <= {median:.0%}, p95 <= {p95:.0%}")
    else:
        print(
            f"warning: expected median <= {median:.0%} and p95 <= {p95:.0%}; measure on a quiet machine, or with --full"
        )
