"""Reader of BFCL's multi-turn tasks (ShishirPatil/gorilla), JSON lines: `{id, question, involved_classes, ...}`.

A task is a session. Each turn of its user is one call, and one more for each function call of the ground truth, which
is read from `possible_answer/` beside the file if it is there; the descriptions of the tools, `multi_turn_func_doc/`,
are the system prompt. Neither the results of tools nor pauses are in the source: results are empty, pauses unknown,
to be drawn (`--pauses`). Tokens are estimated at four characters each. A web-search task has one search for each step
of its answer.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentcache_workloads.readers.formats.mooncake import CHARACTERS
from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.parts.records import Records, Skips
from agentcache_workloads.readers.trace import Meta, Session, TraceCall

DOCS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
    "WebSearchAPI": "web_search",
}
ANSWER = 16
"""Tokens of the answer that ends a turn, which the source does not have."""

_NAME = re.compile(r"\s*([\w.]{1,80})\s*\(")


class BfclTasks(Records):
    form = "bfcl"
    hint = "a line is {id, question: [[{role, content}]], involved_classes}"

    def __init__(self, path: str | Path, skips: Skips | None = None) -> None:
        super().__init__(path, skips)
        self.file = Path(path)

    def read(self) -> tuple[Meta, Iterator[Session]]:
        truths = self._truths()
        sessions = calls = 0
        for session in self._sessions(truths):
            sessions += 1
            calls += len(session.calls)
        if not sessions:
            self.line = 1
            self.fail("no task", "at least one")
        name = self.file.name.partition(".")[0]
        meta = make_meta(name, sessions, calls, None, {"format": self.form, "file": self.file.name})
        self.skips = Skips() if self.skips is not None else None  # the first reading has counted
        return meta, self._sessions(truths)

    def _truths(self) -> dict[str, Any]:
        """Ground truths by task."""
        beside = self.file.parent / "possible_answer" / self.file.name
        found = {}
        if beside.is_file():
            answers = Records(beside, self.skips)
            answers.form, answers.hint = self.form, "a line is {id, ground_truth}"
            for text in answers.texts():
                if record := answers.tolerate(answers.parsed, text):
                    found[str(record.get("id"))] = record
        return found

    def _sessions(self, truths: dict[str, Any]) -> Iterator[Session]:
        docs: dict[str, str] = {}
        seen: set[str] = set()
        for text in self.texts():
            record = self.tolerate(self.parsed, text)
            if record is not None and (session := self.tolerate(self._session, record, truths, docs, seen)):
                yield session

    def _session(self, record: dict[str, Any], truths: dict[str, Any], docs: dict[str, str], seen: set[str]) -> Session:
        sid = self.name(record, "id")
        if sid in seen:
            self.fail(f"task {sid!r} stands here twice", "each task once")
        turns = self.get(record, "question", list, "a list of turns")
        if not turns:
            self.fail("question is empty", "at least one turn")
        classes = record.get("involved_classes") or []
        if not isinstance(classes, list) or not set(map(type, classes)) <= {str}:
            self.fail("involved_classes holds something else than names", "a list of names")
        system = "\n".join(filter(None, (self._doc(name, docs) for name in classes)))
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        calls: list[TraceCall] = []
        for number, turn in enumerate(turns):
            said = self.objects({"turn": turn}, "turn")
            for message in said:
                self.get(message, "role", str, "a string")
                self.get(message, "content", str, "a string")
            messages += said
            if not messages:
                self.fail("a task whose first turn is empty", "a message")
            for step in self._steps(truths.get(sid), number):
                self._call(calls, messages, step)
                messages += [{"role": "assistant", "content": step}, {"role": "tool", "content": ""}]
            self._call(calls, messages, None)
            messages.append({"role": "assistant", "content": ""})
        seen.add(sid)
        return make_session(sid, calls, agent="bfcl")

    def _steps(self, truth: dict[str, Any] | None, number: int) -> list[str]:
        """The function calls of a turn; of a web-search task, one search a step of the answer."""
        given = (truth or {}).get("ground_truth")
        if isinstance(given, list) and number < len(given) and isinstance(given[number], list):
            return [str(step) for step in given[number]]
        source = (truth or {}).get("source")
        if isinstance(source, list) and number == 0:
            return [f"web_search({json.dumps(step.get('subquestion'))})" for step in source if isinstance(step, dict)]
        return []

    def _call(self, calls: list[TraceCall], messages: list[dict[str, Any]], step: str | None) -> None:
        turn = len(calls)
        tool = _NAME.match(step) if step is not None else None
        before = calls[-1].stop if calls else None
        calls.append(
            make_call(
                turn,
                after=turn - 1 if turn else None,
                delay_s=None if turn else 0.0,
                kind="start" if before is None else "tool" if before == "tool_use" else "user",
                in_tok=max(sum(len(message["content"]) for message in messages) // CHARACTERS, 1),
                out_tok=ANSWER if step is None else max(len(step) // CHARACTERS, 1),
                enc="msgs",
                items=tuple(messages),
                stop="end_turn" if step is None else "tool_use",
                tools=(tool.group(1) if tool else "unknown",) if step is not None else (),
                tok_est=True,
                output={"text": step or ""},
            )
        )

    def _doc(self, name: str, docs: dict[str, str]) -> str:
        if name not in docs:
            path = self.file.parent / "multi_turn_func_doc" / f"{DOCS.get(name, '')}.json"
            docs[name] = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return docs[name]
