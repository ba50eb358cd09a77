"""The command `agentcache verify`: is reuse exact on this model, in this engine?"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agentcache.errors import ConfigError, InputError
from agentcache.files import check_writable, write_json

if TYPE_CHECKING:
    from agentcache.vllm_plugin.lab.verify.engine.outcome import Finding, Outcome

SCHEMA = "agentcache-verify/1"
MODEL, DTYPE, POLICY, MODE = "tiny-llama", "float32", "return-index", "fused"
JOBS = 4
ONE_ENGINE = (
    *("mismatches", "near_ties", "max_logprob_diff", "prompt_tokens", "recomputed_tokens", "holes"),
    *(
        "negative_control_failed",
        "tokens_compared",
        "tokens_after_hole",
        "loaded_tokens",
        "bit_exact_answers",
        "bit_differences",
    ),
)
"""What one engine shows, in this order."""
RUNNERS = {"default": "v1", "triton": "v2"}
"""Of vLLM's, by the attention: our kernels run on the second one."""


def verify(
    model: Annotated[
        str | None,
        typer.Option(help="A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama.", show_default=MODEL),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of weights and cache: float32 or bfloat16.", show_default=DTYPE)
    ] = None,
    patterns: Annotated[int, typer.Option(min=1, help="Random patterns of eviction.")] = 100,
    seed: Annotated[int, typer.Option(help="Of prompts and patterns.")] = 1,
    policy: Annotated[
        str | None,
        typer.Option(help="Eviction policy of the engine; it must reuse behind holes.", show_default=POLICY),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="Several holes a step (fused) or one (sequential).", show_default=MODE)
    ] = None,
    paths: Annotated[
        str,
        typer.Option(
            help="default: one engine, nothing but evictions. all: every path of the scheduler, a dozen engines; the "
            "flags above then pick among them."
        ),
    ] = "default",
    attention: Annotated[
        str | None,
        typer.Option(help="default: vLLM's for the CPU; triton: our kernels, interpreted, on vLLM's second runner."),
    ] = None,
    host_memory: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="GiB of host memory below the pool: blocks are pushed there, lost there, and loaded."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Engines at a time with --paths all; one for each core, up to 4.")
    ] = None,
    reproduce: Annotated[
        Path | None, typer.Option(help="Run the case in this file, as --paths all printed it, and nothing else.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="engine: a real one on the CPU. books: the schedulers alone, one to three steps ahead, over a device "
            "that knows what each slot of the cache holds; --patterns is then how many programs are drawn."
        ),
    ] = "engine",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Evict and poison random blocks of a real engine, ask again, and compare with a cold run.

    Exit codes: 0 exact, 1 a mismatch or no proof, 2 bad input.
    """
    for flag, value, built in (
        ("--dtype", dtype, ("float32", "bfloat16")),
        ("--mode", mode, ("fused", "sequential")),
        ("--paths", paths, ("default", "all")),
        ("--attention", attention, ("default", "triton")),
        ("--device", device, ("engine", "books")),
    ):
        if value is not None and value not in built:
            raise ConfigError(f"{flag} is {value!r}; nothing was started", hint="available: " + ", ".join(built))
    check_writable("--json", json_path)
    if policy is not None:
        _check_policy(policy)
    if device == "books":
        given: dict[str, object] = {"--model": model, "--dtype": dtype, "--attention": attention, "--jobs": jobs}
        given |= {"--host-memory": host_memory}
        _refuse_given(given | {"--paths": "all" if paths == "all" else None})
        wanted = {"policy": policy, "mode": mode}
        exact, result = _reproduce_books(reproduce) if reproduce else _books(patterns, seed, wanted)
    elif reproduce is not None:
        exact, result = _reproduce(reproduce)
    elif paths == "all":
        runner = None if attention is None else RUNNERS[attention]
        wanted = {"dtype": dtype, "mode": mode, "policy": policy, "runner": runner}
        exact, result = _all_paths(model, wanted, patterns, seed, jobs or min(JOBS, os.cpu_count() or 1))
    else:
        exact, result = _one_engine(
            model or MODEL,
            dtype or DTYPE,
            policy or POLICY,
            mode or MODE,
            attention or "default",
            host_memory or 0.0,
            patterns,
            seed,
        )
    if json_path:
        write_json(json_path, {"schema": SCHEMA, **result})
    if not exact:
        raise typer.Exit(1)
    print(
        "exact: every read found what it wanted" if device == "books" else "exact: every answer is that of a cold run"
    )


Verdict = tuple[bool, dict[str, Any]]


def _one_engine(
    model: str, dtype: str, policy: str, mode: str, attention: str, host_memory: float, patterns: int, seed: int
) -> Verdict:
    from agentcache.vllm_plugin.launch.cpu_env import interpret_triton, prepare

    prepare(threads=1)  # one thread adds numbers up in one order
    if attention == "triton":
        interpret_triton()
    from msgspec import structs

    from agentcache.vllm_plugin.lab.verify.engine.cases import Setting
    from agentcache.vllm_plugin.lab.verify.engine.experiment import INTERPRETED, Effort, run
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    model_dir(model)  # it is there, or a sentence says so
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{model} {dtype}", total=patterns)
        setting = Setting(model, dtype, mode=mode, policy=policy, runner=RUNNERS[attention], seed=seed)
        setting = structs.replace(setting, host_memory=host_memory)
        effort = INTERPRETED if attention == "triton" else Effort()
        finding = run(setting, patterns, lambda: progress.advance(task), effort)
    shown = _shown(finding.outcome) | {"negative_control_failed": finding.control_failed}
    result = {
        "model": model,
        "seed": seed,
        "policy": policy,
        "mode": mode,
        "attention": attention,
        "dtype": dtype,
        "patterns": patterns,
        "host_memory_gib": host_memory,
        **{name: shown[name] for name in ONE_ENGINE},
    }
    for key, value in {"schema": SCHEMA, **result}.items():
        print(f"{key:24}{value}")
    for failure in finding.failures:
        print(f"NOT EXACT: {failure}")
    return not finding.failures, result


def _shown(outcome: "Outcome") -> dict[str, float]:
    """The sums, by the names under which they are printed and written."""
    return {
        "mismatches": outcome.mismatches,
        "near_ties": outcome.near_ties,
        "tokens_compared": outcome.tokens,
        "max_logprob_diff": outcome.max_logprob_diff,
        "prompt_tokens": outcome.prompt_tokens,
        "recomputed_tokens": outcome.recomputed_tokens,
        "holes": outcome.holes,
        "tokens_after_hole": outcome.tokens_after_hole,
        "loaded_tokens": outcome.loaded_tokens,
        "bit_exact_answers": outcome.equal_answers - outcome.bit_differences,
        "bit_differences": outcome.bit_differences,
    }


def _refuse_given(flags: Mapping[str, object]) -> None:
    """Raise `ConfigError` for flags that say something about an engine, where there is none."""
    if given := [flag for flag, value in flags.items() if value is not None]:
        raise ConfigError(
            f"{given[0]} has no effect with --device books, which computes nothing; nothing was started",
            hint="leave it out, or take --device engine",
        )


def _books(patterns: int, seed: int, wanted: dict[str, str | None]) -> Verdict:
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from agentcache.vllm_plugin.lab.verify.books.check import check

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("programs", total=patterns)
        chosen = {name: value for name, value in wanted.items() if value is not None}
        finding = check(patterns, seed, lambda: progress.advance(task), **chosen)
    for path, count in sorted(finding.met.items()):
        print(f"{path:44}{count:8}")
    print(f"\n{'seed':44}{seed:8}\n{'programs':44}{finding.programs:8}")
    for failure in finding.failures:
        print(f"NOT EXACT: {failure}")
    if finding.failure:
        print(
            "to see it again, put this line into a file and run `agentcache verify --device books --reproduce FILE`:\n"
            f"{finding.failure.json}"
        )
    result = {"device": "books", "seed": seed, "programs": finding.programs, "met": dict(finding.met)}
    return not finding.failures, result | {"failures": finding.failures}


def _reproduce_books(path: Path) -> Verdict:
    import msgspec

    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from agentcache.vllm_plugin.lab.verify.books.check import why_wrong
    from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld

    try:
        program = msgspec.json.decode(path.read_bytes(), type=InWorld)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} holds no program: {error}; nothing was started") from error
    why = why_wrong(program)
    if why:
        print(f"NOT EXACT: {why}")
    return why is None, {"device": "books", "program": msgspec.to_builtins(program), "failures": [why] if why else []}


def _all_paths(model: str | None, wanted: dict[str, str | None], patterns: int, seed: int, jobs: int) -> Verdict:
    from agentcache.vllm_plugin.lab.verify.engine.outcome import total
    from agentcache.vllm_plugin.lab.verify.engine.paths import drawn, not_walked, run
    from agentcache.vllm_plugin.lab.verify.engine.settings import choose, spread
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    if model is not None:
        model_dir(model)  # it is there, or a sentence says so
    settings = choose(model, **wanted)
    counts = spread(patterns, settings)
    started = time.monotonic()
    print(f"{sum(counts)} patterns in {len(settings)} engines, {jobs} at a time, seed {seed}")
    with Progress(console=Console(stderr=True)) as progress:
        cases = sum(
            len(drawn(setting, count, seed)) * (2 if setting.beside else 1)
            for setting, count in zip(settings, counts, strict=True)
        )
        task = progress.add_task("cases", total=cases)
        findings = run(settings, counts, seed, jobs, lambda: progress.advance(task), _print_setting)
    result = total(finding.outcome for finding in findings)
    print()
    for path, count in sorted(result.paths.items()):
        print(f"{path:36}{count:8}")
    print()
    sums = {
        "settings": len(findings),
        "patterns": sum(finding.cases for finding in findings),
        "seed": seed,
        **_shown(result),
        "negative_control_failed": all(finding.control_failed for finding in findings),
        "stock_patterns": sum(finding.cases for finding in findings if finding.stock),
        "stock_patterns_wrong": sum(finding.stock_wrong for finding in findings),
        "stock_mismatches": sum(finding.stock.mismatches for finding in findings if finding.stock),
        "seconds": round(time.monotonic() - started, 1),
    }
    for key, value in sums.items():
        print(f"{key:24}{value}")
    missing = not_walked(findings)
    failed = [f"{one.setting.name}: {why}" for one in findings for why in one.failures]
    failed += [f"no case went through: {path}" for path in missing]
    for failure in failed:
        print(f"NOT EXACT: {failure}")
    for one in findings:
        if one.failure:
            print(
                f"to see it again, put this line into a file and run `agentcache verify --reproduce FILE`:\n"
                f"{one.failure.json}"
            )
    return not failed, sums | {"paths": result.paths, "settings": _rows(findings), "failures": failed}


def _print_setting(finding: "Finding") -> None:
    outcome = finding.outcome
    verdict = "exact" if not finding.failures else "NOT EXACT: " + "; ".join(finding.failures)
    print(
        f"{finding.setting.name}: {finding.cases} cases, {outcome.tokens} tokens compared, {outcome.mismatches} "
        f"mismatches, {outcome.near_ties} near-ties, log-probabilities within {outcome.max_logprob_diff:.1g}, "
        f"{outcome.tokens_after_hole} tokens behind holes, {outcome.paths.get('steps', 0)} steps, control "
        f"{'failed' if finding.control_failed else 'PASSED'}: {verdict}",
        flush=True,
    )
    if stock := finding.stock:
        print(
            f"  stock vLLM in the same cases: {stock.mismatches} mismatches, wrong in {finding.stock_wrong} cases, "
            f"{stock.paths.get('keys withdrawn in the step that gave them', 0)} times with keys of work withdrawn",
            flush=True,
        )


def _rows(findings: Sequence["Finding"]) -> list[dict[str, Any]]:
    import msgspec

    return [
        {
            "setting": msgspec.to_builtins(one.setting),
            "cases": one.cases,
            "outcome": msgspec.to_builtins(one.outcome),
            "negative_control_failed": one.control_failed,
            "failures": one.failures,
            "stock": {"wrong": one.stock_wrong, "outcome": msgspec.to_builtins(one.stock)} if one.stock else None,
            "reproducer": msgspec.to_builtins(one.failure) if one.failure else None,
        }
        for one in findings
    ]


def _reproduce(path: Path) -> Verdict:
    import msgspec

    from agentcache.vllm_plugin.lab.verify.engine.cases import Reproducer
    from agentcache.vllm_plugin.lab.verify.engine.paths import reproduce

    try:
        given = Reproducer.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; nothing was started") from error
    print(f"{given.setting.name}: {len(given.case.ops)} operations")
    outcome = reproduce(given)
    why = outcome.why_wrong(given.setting.dtype)
    print(f"{outcome.tokens} tokens compared, {outcome.mismatches} mismatches")
    if why:
        print(f"NOT EXACT: {why}")
    return why is None, {"setting": msgspec.to_builtins(given.setting), "outcome": msgspec.to_builtins(outcome)}


def _check_policy(spec: str) -> None:
    from agentcache.cost import CostModel, CostProfile
    from agentcache.policy import make_policy

    if make_policy(spec, CostModel(CostProfile(c_lin=1.0, c_att=1.0), 32), 1).reuse != "holes":
        raise ConfigError(
            f"--policy {spec} reuses unbroken prefixes only, so there are no holes to verify; nothing was started",
            hint="take lru-holes or asymcache",
        )
