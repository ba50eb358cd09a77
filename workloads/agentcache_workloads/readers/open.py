"""Every format that can be read: found by a look at the file, or named."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.formats.bailian import Bailian
from agentcache_workloads.readers.formats.bfcl import BfclTasks
from agentcache_workloads.readers.formats.continuum_steps import read_step_events, read_steps
from agentcache_workloads.readers.formats.continuum_timestamps import read_timestamps
from agentcache_workloads.readers.formats.mooncake import Mooncake, TimedTrace
from agentcache_workloads.readers.formats.openai_chat import OpenAIChat
from agentcache_workloads.readers.formats.swe_smith import read_swe_smith
from agentcache_workloads.readers.formats.tracelab import TraceLab
from agentcache_workloads.readers.formats.weka import Weka
from agentcache_workloads.readers.parts import length_blocks, text_blocks
from agentcache_workloads.readers.parts.lines import numbered_lines
from agentcache_workloads.readers.parts.records import Skips
from agentcache_workloads.readers.parts.requests import RowReader
from agentcache_workloads.readers.trace import SCHEMA, Meta, Session

AGENTKV = "agentkv"
ROWS: dict[str, type[RowReader]] = {
    reader.form: reader for reader in (Mooncake, TimedTrace, Bailian, TraceLab, OpenAIChat)
}
WHOLE = {
    "swe-smith": read_swe_smith,
    "continuum-timestamps": read_timestamps,
    "continuum-steps": read_steps,
    "continuum-step-events": read_step_events,
}
"""Formats that are read as a whole, strictly, and that have to be named."""
FORMATS = (AGENTKV, *ROWS, Weka.form, BfclTasks.form, *WHOLE)
SNIFFED_LINES = 3


def open_trace(
    path: str | Path,
    form: str | None = None,
    *,
    skips: Skips | None = None,
    block_size: int | None = None,
    link: bool = False,
) -> tuple[Meta, Iterator[Session]]:
    """The head of a trace of any format, and its sessions, which are read as they are asked for.

    `form` None: what the file looks like. `skips`: count there what cannot be read, rather than raise. `block_size`:
    tokens of a block where the format leaves it open. `link`: requests without a session follow the request whose
    blocks they begin with. Raises `InputError` with file and line, `ConfigError` for a format that there is not.
    """
    form = form or sniff(path)
    if form == AGENTKV:
        return read_trace(path, skips)
    if form == Weka.form:
        return Weka(path, skips).read()
    if form == BfclTasks.form:
        return BfclTasks(path, skips).read()
    if form in WHOLE:
        return WHOLE[form](path)
    if form not in ROWS:
        raise ConfigError(f"--format is {form!r}; nothing was read", hint=f"known: {', '.join(FORMATS)}")
    return ROWS[form](path, skips, block_size, link).read()


def sniff(path: str | Path) -> str:
    """The format of a file, by its first lines. Raises `InputError` for one that looks like none.

    vLLM's `timed_trace` has the fields of Mooncake, in other units: it has to be named.
    """
    if Path(path).is_dir():
        return Weka.form
    texts = [text.strip() for _, text in islice(numbered_lines(path), SNIFFED_LINES)]
    for text in filter(None, texts):
        if found := _form_of(text):
            return found
    if texts and texts[0] == "{" and '"id"' in "".join(texts):  # one object over many lines
        return Weka.form
    raise InputError(
        f"trace {path} looks like no known format; nothing was read",
        hint=f"say which one it is with --format: {', '.join(FORMATS)}",
    )


def _form_of(text: str) -> str | None:
    record: Any = None
    with suppress(ValueError, RecursionError):
        record = json.loads(text)
    if not isinstance(record, dict):
        with suppress(csv.Error):
            fields = {field.strip() for field in next(csv.reader([text]), [])}
            if {"round_idx", "prefix_len"} <= fields:
                return TraceLab.form
        # A line that is damaged may still say what it was.
        return AGENTKV if SCHEMA in text else Weka.form if text.startswith("{") and '"requests"' in text else None
    if record.get("schema") == SCHEMA or record.get("kind") == "meta":
        return AGENTKV
    if "requests" in record:
        return Weka.form
    if "question" in record:
        return BfclTasks.form
    if "chat_id" in record:
        return Bailian.form
    if "output_length" in record:
        return Mooncake.form
    if {"messages", "request", "body"} & record.keys():
        return OpenAIChat.form
    return None


def with_blocks(meta: Meta, sessions: Iterator[Session]) -> tuple[Meta, Iterator[Session]]:
    """A trace with block ids: its own, or those that follow from lengths or, by estimate, from messages."""
    if meta.block_size is not None:
        return meta, sessions
    first = next(sessions, None)
    everything = sessions if first is None else chain([first], sessions)
    enc = first.calls[0].enc if first is not None and first.calls else "blocks"
    if enc == "blocks":
        return meta, everything
    size = length_blocks.BLOCK if enc in ("len", "tokens") else text_blocks.BLOCK
    if enc == "len":
        made = length_blocks.lengths_as_blocks(everything)
    elif enc == "tokens":
        made = length_blocks.tokens_as_blocks(everything)
    else:
        made = text_blocks.as_blocks(map(_said, everything))
    record = {**meta.record, "block_size": size, "tail_hashed": False, "hash_scope": "trace"}
    return dataclasses.replace(meta, block_size=size, tail_hashed=False, hash_scope="trace", record=record), made


def _said(session: Session) -> Session:
    """Plain text as one message."""
    calls = (
        dataclasses.replace(call, enc="msgs", items=({"role": "", "content": call.items},))
        if call.enc == "chars"
        else call
        for call in session.calls
    )
    return dataclasses.replace(session, calls=tuple(calls))
