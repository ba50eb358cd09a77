"""Readers of Mooncake's JSON lines, and of the `timed_trace` of vLLM's benchmark, which has the same fields.

Mooncake (kvcache-ai/Mooncake): `{timestamp, input_length, output_length, hash_ids}`, milliseconds, chained ids of 512
tokens, the last one for what is left. Extensions in use elsewhere are read: `session_id`, `delay` (milliseconds after
the turn before is complete), and `messages` or `text_input` in place of `hash_ids`. Every line is a whole prompt, but
for a line with none of these, as aiperf writes them: its `input_length` is what a turn adds to its session's context.
`timed_trace` (vLLM): seconds, and ids that name 16 tokens of content each.
"""

from typing import Any

from agentcache_workloads.readers.parts.build import Chains
from agentcache_workloads.readers.parts.requests import Request, RowReader
from agentcache_workloads.readers.trace import Session

CHARACTERS = 4  # a token
WHOLE = "message_array_with_responses"
"""The `context_mode` in which aiperf takes the lines of a session for whole prompts."""
LINKED_BLOCKS = 2


class Mooncake(RowReader):
    """`link`: rows without a session follow the latest row whose whole blocks, at least two, they begin with."""

    form = "mooncake"
    hint = "a line is {timestamp, input_length, output_length, hash_ids}, with session_id and delay if there are any"
    size = 512
    seconds = 0.001

    def restart(self) -> None:
        self.block_size = self.block_size or self.size
        self._ends: dict[int, str] = {}

    def row(self, record: dict[str, Any]) -> Request:
        out_tok = self.tokens(record, "output_length")
        at = self.amount(record, "timestamp", optional=True)
        delay = self.amount(record, "delay", optional=True)
        if self.text(record, "context_mode") not in ("", WHOLE):
            self.fail(f"context_mode is {record['context_mode']!r}"[:100], f"none, or {WHOLE!r}: whole prompts")
        enc, items, in_tok = self._prompt(record)
        return Request(
            in_tok=in_tok,
            out_tok=out_tok,
            enc=enc,
            items=items,
            session=self.name(record, "session_id") if record.get("session_id") is not None else None,
            at_s=None if at is None else round(at * self.seconds, 6),
            delay_s=None if delay is None else round(delay * self.seconds, 6),
            more={} if enc in ("blocks", "len") else {"tok_est": "input_length" not in record},
        )

    def _prompt(self, record: dict[str, Any]) -> tuple[str, Any, int]:
        assert self.block_size
        if record.get("hash_ids") is not None:
            ids, in_tok = self.ids(record, "hash_ids"), self.tokens(record, "input_length")
            self.check_blocks(ids, in_tok, self.block_size)
            return "blocks", ids, in_tok
        if record.get("messages") is not None:
            items: Any = tuple(self.get(record, "messages", list, "a list of messages"))
            if not items or set(map(type, items)) != {dict}:
                self.fail("messages holds something else than messages", "objects {role, content}")
            size = sum(len(str(message.get("content"))) for message in items)
        elif record.get("text_input") is not None:
            items = self.get(record, "text_input", str, "a string")
            size = len(items)
        else:
            return "len", None, self.tokens(record, "input_length")
        known = record.get("input_length") is not None
        in_tok = self.tokens(record, "input_length") if known else max(size // CHARACTERS, 1)
        return "chars" if isinstance(items, str) else "msgs", items, in_tok

    def session(self, name: str, rows: list[Request]) -> Session:
        held = 0
        for row in rows:
            if row.enc == "len":
                row.more = {"prompt": {"enc": "len", "prefix": held, "new": row.in_tok}}
                row.in_tok += held
                held = row.in_tok + row.out_tok
        return super().session(name, rows)

    def session_of(self, row: Request) -> str:
        if row.session is not None or not self.link or row.enc != "blocks":
            return super().session_of(row)
        assert self.block_size
        whole = row.items[: row.in_tok // self.block_size]
        found = next((self._ends[i] for i in reversed(whole[LINKED_BLOCKS - 1 :]) if i in self._ends), None)
        name = found or super().session_of(row)
        if len(whole) >= LINKED_BLOCKS:
            self._ends[whole[-1]] = name
        return name


class TimedTrace(Mooncake):
    form = "timed-trace"
    hint = "a line is {timestamp, input_length, output_length, hash_ids}: seconds, ids of --block-size tokens"
    size = 16
    seconds = 1.0

    def restart(self) -> None:
        super().restart()
        self._chains = Chains()

    def _prompt(self, record: dict[str, Any]) -> tuple[str, Any, int]:
        enc, items, in_tok = super()._prompt(record)
        return enc, self._chains(items) if enc == "blocks" else items, in_tok
