"""Reader of `agentkv-trace/1`: one session at a time, delta prompts expanded, every line checked."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from agentcache.errors import InputError
from agentcache_workloads.readers.lines import numbered_lines
from agentcache_workloads.readers.trace import SCHEMA, Call, Meta, Parent, Session

_NUMBER = (int, float)
_ITEM_TYPES: dict[str, type] = {"blocks": int, "tokens": int, "msgs": dict}


def read_trace(path: str | Path) -> tuple[Meta, Iterator[Session]]:
    """Open a trace, plain or zstd; returns its head and its sessions, which are read as they are asked for.

    Raises `InputError` with file and line for anything that is not `agentkv-trace/1`: here for the head, later while
    the sessions are read.
    """
    reader = _Reader(path)
    meta = reader.meta()
    return meta, reader.sessions(meta)


class _Reader:
    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.line = 0
        self.lines = numbered_lines(path)

    def fail(self, found: str, expected: str) -> NoReturn:
        raise InputError(
            f"{self.path}, line {self.line}: {found}, expected {expected}; nothing was done",
            hint=f"the file must be {SCHEMA}: one meta line, then each session followed by its calls in turn order",
        )

    def records(self) -> Iterator[dict[str, Any]]:
        for line, text in self.lines:
            self.line = line
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                self.fail(f"broken JSON ({error.msg} at column {error.colno})", "one JSON object")
            if not isinstance(record, dict):
                self.fail(f"a JSON {type(record).__name__}", "one JSON object")
            yield record

    def get(self, record: dict[str, Any], key: str, types: type | tuple[type, ...], what: str) -> Any:
        if key not in record:
            self.fail(f"no field {key!r}", what)
        value = record[key]
        wanted = types if isinstance(types, tuple) else (types,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            self.fail(f"{key} is {value!r}"[:120], what)
        return value

    def amount(self, record: dict[str, Any], key: str, *, optional: bool = False, whole: bool = False) -> Any:
        """A number that is finite and not negative; None too where it is optional."""
        if optional and record.get(key) is None:
            return None
        what = f"a {'whole ' if whole else ''}number >= 0"
        value = self.get(record, key, int if whole else _NUMBER, what)
        if not math.isfinite(value) or value < 0:
            self.fail(f"{key} is {value}", what)
        return value

    def meta(self) -> Meta:
        record = next(self.records(), None)
        if record is None:
            self.line = 1
            self.fail("the file is empty", "a meta line")
        if record.get("schema") != SCHEMA:
            self.fail(f"schema is {record.get('schema')!r}", repr(SCHEMA))
        if record.get("kind") != "meta":
            self.fail(f"kind is {record.get('kind')!r}", "'meta'")
        scope = record.get("hash_scope") or "trace"
        if scope not in ("trace", "session"):
            self.fail(f"hash_scope is {scope!r}", "'trace' or 'session'")
        size = self.amount(record, "block_size", optional=True, whole=True)
        if size == 0:
            self.fail("block_size is 0", "at least 1 token")
        return Meta(
            name=self.get(record, "name", str, "a string"),
            split=record.get("split") or "",
            n_sessions=self.amount(record, "n_sessions", whole=True),
            n_calls=self.amount(record, "n_calls", whole=True),
            block_size=size,
            hash_scope=scope,
            tail_hashed=bool(record.get("tail_hashed")),
            record=record,
        )

    def sessions(self, meta: Meta) -> Iterator[Session]:
        head: dict[str, Any] | None = None
        calls: list[Call] = []
        seen: set[str] = set()
        total = 0
        for record in self.records():
            if record.get("kind") == "session":
                if head is not None:
                    yield self.session(head, calls)
                head, calls = record, []
                sid = self.get(record, "sid", str, "a string")
                if sid in seen:
                    self.fail(f"session {sid!r} stands here twice", "each session once")
                seen.add(sid)
            elif record.get("kind") == "call":
                if head is None or record.get("sid") != head["sid"]:
                    self.fail(f"a call of session {record.get('sid')!r}", "a call of the session above it")
                calls.append(self.call(record, calls))
                total += 1
            else:
                self.fail(f"kind is {record.get('kind')!r}", "'session' or 'call'")
        if head is not None:
            yield self.session(head, calls)
        if (len(seen), total) != (meta.n_sessions, meta.n_calls):
            self.fail(
                f"the file ends after {len(seen)} sessions and {total} calls",
                f"the {meta.n_sessions} sessions and {meta.n_calls} calls that its head promises",
            )

    def session(self, record: dict[str, Any], calls: list[Call]) -> Session:
        if (promised := self.amount(record, "n_calls", whole=True)) != len(calls):
            self.fail(f"session {record['sid']!r} ends after {len(calls)} calls", f"n_calls = {promised}")
        parent = record.get("parent")
        if parent is not None:
            if not isinstance(parent, dict):
                self.fail(f"parent of session {record['sid']!r} is {parent!r}", "null or an object")
            parent = Parent(
                self.get(parent, "sid", str, "a string"),
                self.amount(parent, "turn", whole=True),
                self.amount(parent, "offset_s"),
            )
        arrival_s = self.amount(record, "arrival_s", optional=True)
        duration_s = self.amount(record, "recorded_dur_s", optional=True)
        return Session(record["sid"], parent, arrival_s, duration_s, tuple(calls), record)

    def call(self, record: dict[str, Any], before: list[Call]) -> Call:
        turn = self.amount(record, "turn", whole=True)
        if turn != len(before):
            self.fail(f"turn is {turn}", f"{len(before)}: turns in order, from 0")
        after = record.get("after")
        if after is not None and not (type(after) is int and 0 <= after < turn):
            self.fail(f"after is {after!r} in turn {turn}", "null or an earlier turn of the session")
        enc, items = self.prompt(record, before)
        recorded = record.get("rec") or {}
        return Call(
            turn=turn,
            after=after,
            delay_s=self.amount(record, "delay_s", optional=True),
            delay_kind=record.get("delay_kind") or "unknown",
            in_tok=self.amount(record, "in_tok", whole=True),
            out_tok=self.amount(record, "out_tok", whole=True),
            enc=enc,
            items=items,
            stop=record.get("stop") or "unknown",
            tools=tuple(self.get(tool, "name", str, "a string") for tool in record.get("tools") or ()),
            spawn=tuple(record.get("spawn") or ()),
            t_s=self.amount(recorded, "t_s", optional=True),
            api_s=self.amount(recorded, "api_s", optional=True),
            record=record,
        )

    def prompt(self, record: dict[str, Any], before: list[Call]) -> tuple[str, Any]:
        """The encoding of a prompt and the full prompt: the first `keep` items of call `ref` and the new ones."""
        delta = self.get(record, "prompt", dict, "an object")
        enc = delta.get("enc")
        if enc == "len":
            return "len", None
        if enc not in (*_ITEM_TYPES, "chars"):
            self.fail(f"prompt.enc is {enc!r}", "blocks, tokens, msgs, chars or len")
        new = self.get(delta, "new", str if enc == "chars" else list, "the new items of the prompt")
        if enc != "chars":
            new = tuple(new)
            if not set(map(type, new)) <= {_ITEM_TYPES[enc]}:
                self.fail("prompt.new holds items of a wrong type", f"{enc} only")
        ref = delta.get("ref")
        if ref is None:
            return enc, new
        keep = self.amount(delta, "keep", whole=True)
        if not (type(ref) is int and 0 <= ref < len(before)) or before[ref].enc != enc:
            self.fail(f"prompt.ref is {ref!r}", f"an earlier turn with a prompt of enc {enc!r}")
        kept = before[ref].items
        assert kept is not None  # `enc` is not `len`
        if keep > len(kept):
            self.fail(f"prompt.keep is {keep}", f"at most the {len(kept)} items of turn {ref}")
        return enc, kept[:keep] + new
