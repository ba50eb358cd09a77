"""Readers of formats with one request a line: the file is read twice, so that only open sessions are in memory.

The first time each line is checked and given its session; the second time a session is handed on with its last line.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentcache_workloads.readers.parts.build import make_call, make_meta, make_session
from agentcache_workloads.readers.parts.records import Records, Skips
from agentcache_workloads.readers.trace import Meta, Session, TraceCall


@dataclass(slots=True)
class Request:
    """One request, sent at `at_s` by the source's clock and complete at `end_s`, with a pause of `delay_s` before it.

    `session` None: the format finds out. `more`: further fields of the call's line, or what the format itself needs.
    """

    in_tok: int
    out_tok: int
    enc: str
    items: Any
    session: str | None = None
    at_s: float | None = None
    delay_s: float | None = None
    end_s: float | None = None
    stop: str = "unknown"
    kind: str = "unknown"
    tools: tuple[str, ...] = ()
    line: int = 0
    more: dict[str, Any] = field(default_factory=dict)


class RowReader(Records):
    """A format of rows. `link`: rows that name no session may be put into one by their prompts."""

    agent = "unknown"
    tail_hashed = True

    def __init__(
        self, path: str | Path, skips: Skips | None = None, block_size: int | None = None, link: bool = False
    ) -> None:
        super().__init__(path, skips)
        self.block_size = block_size
        self.link = link

    # What a format brings.

    def records(self) -> Iterator[dict[str, Any] | None]:
        """One record a line, None for one that was skipped."""
        for text in self.texts():
            yield self.tolerate(self.parsed, text)

    def row(self, record: dict[str, Any]) -> Request:
        raise NotImplementedError

    def session_of(self, row: Request) -> str:
        """The session of a row, asked once, in the order of the lines."""
        return row.session or f"{self.form}-{row.line:06d}"

    def restart(self) -> None:
        """Called before each reading."""

    def prompts(self) -> int | None:
        """Tokens of a block of the prompts, after the first reading."""
        return self.block_size if self.encodings == {"blocks"} else None

    # What is done with it.

    def read(self) -> tuple[Meta, Iterator[Session]]:
        self.encodings: set[str] = set()
        lines: dict[int, str] = {}
        for row in self._rows():
            if name := self.tolerate(self._place, row):
                lines[row.line] = name
        totals = Counter(lines.values())
        if not lines:
            self.line = 1
            self.fail("no request in the file", f"lines of {self.form}")
        meta = make_meta(
            Path(self.path).name.partition(".")[0],
            len(totals),
            len(lines),
            self.prompts(),
            {"format": self.form, "file": Path(self.path).name},
            tail_hashed=self.tail_hashed,
            arrival="recorded" if self.timed else "none: synthesise",
        )
        return meta, self._sessions(lines, totals)

    timed = False

    def _place(self, row: Request) -> str:
        if self.encodings and row.enc not in self.encodings:
            self.fail(f"a prompt of enc {row.enc!r}", f"{', '.join(self.encodings)} as in the lines above")
        name = self.session_of(row)
        self.encodings.add(row.enc)
        self.timed = self.timed or row.at_s is not None
        return name

    def _rows(self) -> Iterator[Request]:
        self.restart()
        for record in self.records():
            if record is not None and (row := self.tolerate(self.row, record)):
                row.line = self.line
                yield row

    def _sessions(self, lines: dict[int, str], totals: Counter[str]) -> Iterator[Session]:
        skips, self.skips = (
            self.skips,
            Skips() if self.skips is not None else None,
        )  # the first reading has counted them
        waiting: dict[str, list[Request]] = {}
        for row in self._rows():
            if (name := lines.get(row.line)) is None:
                continue
            rows = waiting.setdefault(name, [])
            rows.append(row)
            if len(rows) == totals[name]:
                del waiting[name]
                self.skips = skips
                session = self.tolerate(self.session, name, rows, records=len(rows))
                self.skips = Skips() if skips is not None else None
                if session:
                    yield session

    def followed(self, rows: list[Request], turn: int) -> int | None:
        """Which row of its session a row follows."""
        return turn - 1 if turn else None

    def session(self, name: str, rows: list[Request]) -> Session:
        """The rows in the order of the file; times must not go back."""
        calls: list[TraceCall] = []
        for turn, row in enumerate(rows):
            self.line = row.line
            calls.append(self._call(turn, row, self.followed(rows, turn), rows))
        return make_session(name, calls, agent=self.agent, arrival_s=rows[0].at_s)

    def _call(self, turn: int, row: Request, after: int | None, rows: list[Request]) -> TraceCall:
        more = dict(row.more)
        delay_s = 0.0 if after is None else row.delay_s
        before = None if after is None else rows[after]
        if before is not None and row.at_s is not None and before.at_s is not None:
            if row.at_s < before.at_s:
                self.fail(f"a request {before.at_s - row.at_s:g} s before the one it follows", "the order of time")
            if delay_s is None and before.end_s is not None:
                delay_s = max(0.0, round(row.at_s - before.end_s, 6))
            if delay_s is None:
                more["cycle_s"] = round(row.at_s - before.at_s, 6)
        first_s = rows[0].at_s
        return make_call(
            turn,
            after=after,
            delay_s=delay_s,
            kind="start" if after is None else row.kind,
            in_tok=row.in_tok,
            out_tok=row.out_tok,
            enc=row.enc,
            items=row.items,
            stop=row.stop,
            tools=row.tools,
            t_s=None if row.at_s is None or first_s is None else max(round(row.at_s - first_s, 6), 0.0),
            api_s=None if row.at_s is None or row.end_s is None else round(row.end_s - row.at_s, 6),
            **more,
        )
