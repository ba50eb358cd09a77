"""Reader of TraceLab's replay CSV (uw-syfi/TraceLab): rounds of coding agents as lengths, with the pauses between them.

Columns: `session_id` (or `id`), `round_idx`, `prefix_len` (tokens of the context kept), `input_len` (new tokens),
`output_len`, `tool_wait_after_ms`, and perhaps `arrival_time` in milliseconds.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agentcache_workloads.readers.parts.records import LARGEST
from agentcache_workloads.readers.parts.requests import Request, RowReader
from agentcache_workloads.readers.trace import Session

NEEDED = ("round_idx", "prefix_len", "input_len", "output_len", "tool_wait_after_ms")


class TraceLab(RowReader):
    form = "tracelab"
    hint = "the first line names the columns: session_id, " + ", ".join(NEEDED)
    tail_hashed = False

    def records(self) -> Iterator[dict[str, Any] | None]:
        head: list[str] | None = None
        for text in self.texts():
            fields = self.tolerate(self._fields, text)
            if head is None:
                head = self._head(fields or [])
            elif fields is not None:
                yield self.tolerate(self._record, head, fields)

    def _fields(self, text: str) -> list[str]:
        try:
            [fields] = csv.reader([text], strict=True)
        except (csv.Error, ValueError) as error:
            self.fail(f"broken CSV ({error})", "fields with commas between them")
        return [field.strip() for field in fields]

    def _head(self, fields: list[str]) -> list[str]:
        names = ["session_id" if name == "id" else name for name in fields]
        if missing := {"session_id", *NEEDED} - set(names):
            self.fail(f"no column {', '.join(sorted(missing))}", f"session_id, {', '.join(NEEDED)}")
        if len(set(names)) < len(names):
            self.fail("a column that stands here twice", "each column once")
        return names

    def _record(self, head: list[str], fields: list[str]) -> dict[str, Any]:
        if len(fields) != len(head):
            self.fail(f"{len(fields)} fields", f"{len(head)} as in the first line")
        return dict(zip(head, fields, strict=True))

    def row(self, record: dict[str, Any]) -> Request:
        numbers = {key: self._whole(key, record[key]) for key in NEEDED}
        arrival = self._whole("arrival_time", record["arrival_time"]) if record.get("arrival_time") else None
        if numbers["output_len"] < 1 or numbers["input_len"] + numbers["prefix_len"] < 1:
            self.fail("a prompt or an output of no tokens", "at least 1 token each")
        return Request(
            in_tok=numbers["prefix_len"] + numbers["input_len"],
            out_tok=numbers["output_len"],
            enc="len",
            items=None,
            session=self.name(record, "session_id"),
            at_s=None,
            kind="tool",
            more={
                "prompt": {"enc": "len", "prefix": numbers["prefix_len"], "new": numbers["input_len"]},
                "round": numbers["round_idx"],
                "wait_after_s": numbers["tool_wait_after_ms"] / 1000,
                "arrives_s": None if arrival is None else arrival / 1000,
            },
        )

    def _whole(self, key: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) <= LARGEST):
            self.fail(f"{key} is {text[:80]!r}", "a whole number >= 0")
        return int(text)

    def session(self, name: str, rows: list[Request]) -> Session:
        held = 0
        for turn, row in enumerate(rows):
            self.line = row.line
            if row.more.pop("round") != turn:
                self.fail(f"not round {turn} of session {name!r}", "rounds in order, from 0")
            if row.more["prompt"]["prefix"] > held:
                self.fail(f"prefix_len is {row.more['prompt']['prefix']}", f"at most the {held} tokens before it")
            held = row.in_tok + row.out_tok
            row.delay_s = rows[turn - 1].more["wait_after_s"] if turn else None
            row.stop = "tool_use" if turn + 1 < len(rows) else "end_turn"
        arrival_s = rows[0].more["arrives_s"]
        for row in rows:
            row.more = {"prompt": row.more["prompt"]}
        session = super().session(name, rows)
        return replace(session, arrival_s=arrival_s)
