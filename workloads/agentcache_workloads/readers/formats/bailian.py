"""Reader of the Qwen-Bailian usage traces (alibaba-edu/qwen-bailian-usagetraces-anon), JSON lines.

`{chat_id, parent_chat_id, timestamp, input_length, output_length, type, turn, hash_ids}`: seconds, ids of 16 tokens,
every line a whole prompt. A chat is the lines under one root, which has the parent -1; a parent that the file does not
hold is the root of what follows from it. Pauses hold the service time too, which the source does not know.
"""

from typing import Any

from agentcache_workloads.readers.parts.requests import Request, RowReader

NO_PARENT = "-1"


class Bailian(RowReader):
    form = "bailian"
    hint = "a line is {chat_id, parent_chat_id, timestamp, input_length, output_length, type, turn, hash_ids}"
    agent = "chat"
    size = 16

    def restart(self) -> None:
        self.block_size = self.block_size or self.size
        self._roots: dict[str, str] = {}

    def row(self, record: dict[str, Any]) -> Request:
        assert self.block_size
        in_tok, ids = self.tokens(record, "input_length"), self.ids(record, "hash_ids")
        self.check_blocks(ids, in_tok, self.block_size)
        chat, parent = self.name(record, "chat_id"), NO_PARENT
        if record.get("parent_chat_id") is not None:
            parent = self.name(record, "parent_chat_id")
        if chat == parent:
            self.fail(f"chat {chat} follows itself", "another parent_chat_id")
        self.amount(record, "turn", optional=True, whole=True)
        return Request(
            in_tok=in_tok,
            out_tok=self.tokens(record, "output_length"),
            enc="blocks",
            items=ids,
            at_s=self.amount(record, "timestamp"),
            stop="end_turn",
            kind="user",
            more={"chat": chat, "follows": parent, "type": str(record.get("type") or "")},
        )

    def session_of(self, row: Request) -> str:
        chat, parent = row.more["chat"], row.more["follows"]
        if chat in self._roots:
            self.fail(f"chat_id {chat} stands here twice", "each chat_id once")
        root = chat if parent == NO_PARENT else self._roots.get(parent, parent)
        self._roots[chat] = root
        return f"chat-{root}"

    def followed(self, rows: list[Request], turn: int) -> int | None:
        """The line of its parent, which need not be the line before: a branch."""
        parent = rows[turn].more["follows"]
        return next((i for i in reversed(range(turn)) if rows[i].more["chat"] == parent), turn - 1 if turn else None)
