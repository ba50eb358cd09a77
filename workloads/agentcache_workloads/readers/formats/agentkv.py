"""Reader of `agentkv-trace/1`: one session at a time, delta prompts expanded, every line checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentcache_workloads.readers.parts.records import Records, Skips
from agentcache_workloads.readers.trace import SCHEMA, Meta, Parent, Session, TraceCall

_ITEM_TYPES: dict[str, type] = {"blocks": int, "tokens": int, "msgs": dict}


def read_trace(path: str | Path, skips: Skips | None = None) -> tuple[Meta, Iterator[Session]]:
    """Open a trace, plain or zstd; returns its head and its sessions, which are read as they are asked for.

    Raises `InputError` with file and line for anything that is not `agentkv-trace/1`: here for the head, later while
    the sessions are read. With `skips`, sessions that cannot be read are left out and counted there.
    """
    reader = _Reader(path, skips)
    meta = reader.meta()
    return meta, reader.sessions(meta)


class _Reader(Records):
    hint = f"the file must be {SCHEMA}: one meta line, then each session followed by its calls in turn order"

    def __init__(self, path: str | Path, skips: Skips | None = None) -> None:
        super().__init__(path, skips)
        self.lines = self.texts()
        self.block_size: int | None = None

    def meta(self) -> Meta:
        text = next(self.lines, None)
        if text is None:
            self.line = 1
            self.fail("the file is empty", "a meta line")
        record = self.parsed(text)
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
        self.block_size = size
        return Meta(
            name=self.get(record, "name", str, "a string"),
            split=self.text(record, "split"),
            n_sessions=self.amount(record, "n_sessions", whole=True),
            n_calls=self.amount(record, "n_calls", whole=True),
            block_size=size,
            hash_scope=scope,
            tail_hashed=bool(record.get("tail_hashed")),
            record=record,
        )

    def sessions(self, meta: Meta) -> Iterator[Session]:
        """With skips, a session that holds what cannot be read is left out as a whole: its prompts are deltas."""
        head: dict[str, Any] | None = None
        calls: list[TraceCall] = []
        seen: set[str] = set()
        total = lost = 0
        for text in self.lines:
            record = self.tolerate(self.parsed, text)
            if record is None:
                lost += 1
            elif record.get("kind") == "session":
                if head is not None and (made := self.tolerate(self.session, head, calls)):
                    yield made
                head = self.tolerate(self.head, record, seen)
                calls = []
                lost = head is None
            elif self.skips is not None and lost:
                self.skips.count += 1
            elif made_call := self.tolerate(self.member, record, head, calls):
                calls.append(made_call)
                total += 1
            else:
                lost += 1
        if head is not None and (made := self.tolerate(self.session, head, calls)):
            yield made
        if self.skips is None and (len(seen), total) != (meta.n_sessions, meta.n_calls):
            self.fail(
                f"the file ends after {len(seen)} sessions and {total} calls",
                f"the {meta.n_sessions} sessions and {meta.n_calls} calls that its head promises",
            )

    def head(self, record: dict[str, Any], seen: set[str]) -> dict[str, Any]:
        sid = self.name(record, "sid")
        if sid in seen:
            self.fail(f"session {sid!r} stands here twice", "each session once")
        seen.add(sid)
        return record

    def member(self, record: dict[str, Any], head: dict[str, Any] | None, calls: list[TraceCall]) -> TraceCall:
        if record.get("kind") != "call":
            self.fail(f"kind is {record.get('kind')!r}", "'session' or 'call'")
        if head is None or record.get("sid") != head["sid"]:
            self.fail(f"a call of session {record.get('sid')!r}", "a call of the session above it")
        return self.call(record, calls)

    def session(self, record: dict[str, Any], calls: list[TraceCall]) -> Session:
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

    def call(self, record: dict[str, Any], before: list[TraceCall]) -> TraceCall:
        turn = self.amount(record, "turn", whole=True)
        if turn != len(before):
            self.fail(f"turn is {turn}", f"{len(before)}: turns in order, from 0")
        after = record.get("after")
        if after is not None and not (type(after) is int and 0 <= after < turn):
            self.fail(f"after is {after!r} in turn {turn}", "null or an earlier turn of the session")
        enc, items = self.prompt(record, before)
        in_tok = self.amount(record, "in_tok", whole=True)
        if enc == "blocks" and self.block_size:
            self.check_blocks(items, in_tok, self.block_size)
        recorded = self.get(record, "rec", dict, "an object") if record.get("rec") is not None else {}
        for key in ("cycle_s", "arrival_s"):
            self.amount(record, key, optional=True)
        return TraceCall(
            turn=turn,
            after=after,
            delay_s=self.amount(record, "delay_s", optional=True),
            delay_kind=self.text(record, "delay_kind") or "unknown",
            in_tok=in_tok,
            out_tok=self.amount(record, "out_tok", whole=True),
            enc=enc,
            items=items,
            stop=self.text(record, "stop") or "unknown",
            tools=tuple(self.get(tool, "name", str, "a string") for tool in self.objects(record, "tools")),
            spawn=self.spawned(record),
            t_s=self.amount(recorded, "t_s", optional=True),
            api_s=self.amount(recorded, "api_s", optional=True),
            record=record,
        )

    def spawned(self, record: dict[str, Any]) -> tuple[str, ...]:
        names = self.get(record, "spawn", list, "a list of session ids") if record.get("spawn") is not None else []
        if not set(map(type, names)) <= {str}:
            self.fail("spawn holds something else than session ids", "strings")
        return tuple(names)

    def prompt(self, record: dict[str, Any], before: list[TraceCall]) -> tuple[str, Any]:
        """The encoding of a prompt and the full prompt: the first `keep` items of call `ref` and the new ones."""
        delta = self.get(record, "prompt", dict, "an object")
        enc = delta.get("enc")
        if enc == "len":
            for key in ("prefix", "new"):
                self.amount(delta, key, optional=True, whole=True)
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
