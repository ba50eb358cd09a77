"""The command `agentcache trace`: looks at traces of any format, checks, converts, cuts and generates them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from agentcache.errors import ConfigError
from agentcache_workloads.generators.registry import GENERATORS
from agentcache_workloads.generators.registry import generate as generated
from agentcache_workloads.readers.cut import cut_sessions
from agentcache_workloads.readers.describe import describe, gaps
from agentcache_workloads.readers.open import FORMATS, open_trace, sniff, with_blocks
from agentcache_workloads.readers.parts.records import Skips
from agentcache_workloads.readers.pauses import MODELS, with_pauses
from agentcache_workloads.readers.trace import Meta, Session
from agentcache_workloads.readers.writers.agentkv_writer import write_trace
from agentcache_workloads.readers.writers.mooncake_writer import write_mooncake

TARGETS = ("agentkv", "mooncake")

Source = Annotated[Path, typer.Argument(help="A trace of any format, plain or zstd; of Weka's also a folder.")]
Target = Annotated[Path, typer.Argument(help="The file to write; .zst compresses it.")]
Form = Annotated[str | None, typer.Option("--format", help="Of the source; default by its look: " + ", ".join(FORMATS))]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave out what cannot be read, and say how much.")]
BlockSize = Annotated[int | None, typer.Option(min=1, help="Tokens of a block, where the format leaves it open.")]
Link = Annotated[
    bool, typer.Option("--link", help="mooncake: a request without a session follows the one that it extends.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(cls=TyperGroup, no_args_is_help=True, add_completion=False, help=__doc__)


def trace(ctx: typer.Context) -> None:
    """Look at traces of any format, check, convert, cut and generate them."""
    code = typer.main.get_command(app).main(list(ctx.args), prog_name="agentcache trace", standalone_mode=False)
    if isinstance(code, int) and code:
        raise typer.Exit(code)


trace.context_settings = {  # type: ignore[attr-defined]
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


@app.command()
def info(
    source: Source,
    form: Form = None,
    lenient: Lenient = False,
    block_size: BlockSize = None,
    link: Link = False,
    as_json: Json = False,
) -> None:
    """Show what a trace holds: sessions, tokens, pauses, reuse, and what a replay would miss."""
    form = form or sniff(source)
    skips = Skips() if lenient else None
    found = describe(*open_trace(source, form, skips=skips, block_size=block_size, link=link))
    found = {"format": form, **found, "notes": gaps(found), **_skipped(skips)}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in found.items():
        if value not in (None, {}, [], 0):
            table.add_row(key.replace("_", " "), _shown(value))
    Console(width=None if Console().is_terminal else 150).print(table)


@app.command()
def validate(
    source: Source,
    form: Form = None,
    lenient: Lenient = False,
    block_size: BlockSize = None,
    link: Link = False,
    as_json: Json = False,
) -> None:
    """Read all of a trace and check it; the first line that is wrong is named. Exit code 2 if there is one."""
    form = form or sniff(source)
    skips = Skips() if lenient else None
    sessions = calls = 0
    for session in open_trace(source, form, skips=skips, block_size=block_size, link=link)[1]:
        sessions += 1
        calls += len(session.calls)
    found = {"format": form, "sessions": sessions, "calls": calls, **_skipped(skips)}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        typer.echo(f"{source} is {form}: {sessions:,} sessions, {calls:,} calls")
        _say(skips)
    if skips is not None and skips.count:
        raise typer.Exit(2)


@app.command()
def convert(
    source: Source,
    target: Target,
    form: Form = None,
    to: Annotated[str, typer.Option(help="Format to write: " + " or ".join(TARGETS) + ".")] = TARGETS[0],
    lenient: Lenient = False,
    block_size: BlockSize = None,
    link: Link = False,
    pauses: Annotated[str | None, typer.Option(help=f"Fill in pauses that are unknown: {MODELS}.")] = None,
    every_pause: Annotated[bool, typer.Option("--every-pause", help="Replace the known ones too.")] = False,
    seed: Annotated[int, typer.Option(help="Of pauses that are drawn.")] = 1,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Give lengths and text block ids, as a replay does.")
    ] = False,
    context_mode: Annotated[
        bool, typer.Option("--context-mode", help="mooncake: say in each line, for aiperf, that its prompt is whole.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a trace in another format; what that cannot say is counted."""
    if to not in TARGETS:
        raise ConfigError(f"--to is {to!r}; nothing was written", hint=f"known: {', '.join(TARGETS)}")
    skips = Skips() if lenient else None
    meta, sessions = open_trace(source, form, skips=skips, block_size=block_size, link=link)
    if pauses:
        sessions = with_pauses(sessions, pauses, seed, every=every_pause)
    if blocks or to == "mooncake":
        meta, sessions = with_blocks(meta, sessions)
    found = {"file": str(target), "format": to, **_write(to, target, meta, sessions, context_mode), **_skipped(skips)}
    _report(found, skips, as_json)


@app.command()
def cut(
    source: Source,
    target: Target,
    sessions: Annotated[int, typer.Option(min=1, help="Jobs to take, the first by SHA-256 of their ids.")],
    max_calls: Annotated[int, typer.Option(min=1, help="First calls of each session.")],
    min_calls: Annotated[int, typer.Option(min=1, help="Take jobs of so many calls at least.")] = 1,
    always: Annotated[list[str] | None, typer.Option(help="Take this session in any case; may be given again.")] = None,
    note: Annotated[str, typer.Option(help="Kept in the head of the cut.")] = "",
    form: Form = None,
    lenient: Lenient = False,
    block_size: BlockSize = None,
    link: Link = False,
    as_json: Json = False,
) -> None:
    """Write fewer sessions and fewer calls of a trace; the structure that is left is the source's own."""
    form = form or sniff(source)
    skips = Skips() if lenient else None

    def opened() -> tuple[Meta, Iterator[Session]]:
        if skips is not None:
            skips.count, skips.first = 0, []
        return open_trace(source, form, skips=skips, block_size=block_size, link=link)

    meta, kept = cut_sessions(
        opened, str(source), sessions=sessions, max_calls=max_calls, min_calls=min_calls, always=always or (), note=note
    )
    written = dict(zip(("sessions", "calls"), write_trace(target, meta, kept), strict=True))
    found = {"file": str(target), **written, **_skipped(skips)}
    _report(found, skips, as_json)


@app.command()
def generate(
    name: Annotated[str, typer.Argument(help="Which generator: " + ", ".join(GENERATORS) + ".")],
    target: Target,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, NAME=VALUE; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same trace.")] = 1,
    pauses: Annotated[str | None, typer.Option(help=f"Replace its pauses by a model: {MODELS}.")] = None,
    to: Annotated[str, typer.Option(help="Format to write: " + " or ".join(TARGETS) + ".")] = TARGETS[0],
    as_json: Json = False,
) -> None:
    """Write a made trace: long-context chats, tool interceptions, workflows, search jobs, tree search."""
    meta, sessions = generated(name, settings or (), seed)
    if pauses:
        sessions = with_pauses(sessions, pauses, seed, every=True)
    _report({"file": str(target), "format": to, **_write(to, target, meta, sessions)}, None, as_json)


def _write(
    to: str, target: Path, meta: Meta, sessions: Iterator[Session], context_mode: bool = False
) -> dict[str, Any]:
    """What was written, and what the format could not say."""
    if to not in TARGETS:
        raise ConfigError(f"--to is {to!r}; nothing was written", hint=f"known: {', '.join(TARGETS)}")
    if to == "mooncake":
        return {"block_size": meta.block_size, **asdict(write_mooncake(target, meta, sessions, context_mode))}
    return dict(zip(("sessions", "calls"), write_trace(target, meta, sessions), strict=True))


def _report(found: dict[str, Any], skips: Skips | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo("  ".join(f"{key}={value}" for key, value in found.items() if key != "reasons"))
    _say(skips)


def _skipped(skips: Skips | None) -> dict[str, Any]:
    return {} if skips is None else {"skipped": skips.count, "reasons": skips.first}


def _say(skips: Skips | None) -> None:
    if skips is not None and skips.count:
        typer.echo(f"skipped {skips.count:,} records; the first of them:", err=True)
        for reason in skips.first:
            typer.echo(f"  {reason}", err=True)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int | float) else str(value)
