"""Reader of the sessions of kv-cache-tester (callanjfox/kv-cache-tester, published by WEKA): one JSON object a session.

`{id, models, block_size, hash_id_scope, tool_tokens, system_tokens, requests}`; a request is `{t, type, model, in, out,
hash_ids, stop, api_time, think_time}` or `{t, type: subagent, agent_id, requests, ...}`, in seconds. A path is one such
file, a folder of them, or JSON lines. What is made of it:

- Ids name a block's content, so they are chained here, with the model as the root; they are compared across the file's
  sessions only where `hash_id_scope` is `global`.
- A streaming attempt (`s`) that a request (`n`) with the same prompt follows was retried by the capturing proxy: they
  are one call, which starts with the first and ends with the second.
- A pause is from the end of a call (`t` + `api_time`) to the start of the next one; without `api_time` it is
  `think_time`, and without both there is only the time from start to start (`cycle_s`).
- A sub-agent starts when its marker says, after the call before it; the next call waits for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcache_workloads.readers.parts.build import Chains, make_call, make_meta, make_session
from agentcache_workloads.readers.parts.records import Records, Skips
from agentcache_workloads.readers.trace import Meta, Parent, Session, TraceCall

STOPS = ("tool_use", "end_turn", "max_tokens")


@dataclass(slots=True)
class _Request:
    start_s: float
    end_s: float
    api_s: float | None
    think_s: float | None
    model: str
    in_tok: int
    out_tok: int
    ids: tuple[int, ...]
    stop: str
    streamed: bool


class Weka(Records):
    form = "weka"
    hint = "a session is one JSON object {id, block_size, requests: [{t, type, model, in, out, hash_ids}]}"

    def __init__(self, path: str | Path, skips: Skips | None = None, block_size: int | None = None) -> None:
        super().__init__(path, skips)
        self.block_size = block_size
        self.root = Path(path)

    def read(self) -> tuple[Meta, Iterator[Session]]:
        """The head needs the counts, so everything is read twice; one session at a time is in memory."""
        sessions = calls = 0
        for session in self._sessions():
            sessions += 1
            calls += len(session.calls)
        if not sessions or self.block_size is None:
            self.line = 1
            self.fail("no session", "at least one")
        meta = make_meta(
            self.root.name.partition(".")[0],
            sessions,
            calls,
            self.block_size,
            {"format": self.form, "file": self.root.name},
        )
        self.skips = Skips() if self.skips is not None else None  # the first reading has counted
        return meta, self._sessions()

    def _sessions(self) -> Iterator[Session]:
        seen: set[str] = set()
        shared = Chains()
        for record in self._objects():
            found = self.tolerate(self._session, record, shared, seen)
            yield from found or ()

    def _objects(self) -> Iterator[dict[str, Any]]:
        files = sorted(self.root.glob("*.json*")) if self.root.is_dir() else [self.root]
        for file in files:
            self.path = file
            lines = None  # whether each line is a session; else the file is one
            whole: list[str] = []
            for text in self.texts():
                if lines is None:
                    lines = ".jsonl" in file.name or text.rstrip().endswith("}")
                if not lines:
                    whole.append(text)
                elif record := self.tolerate(self.parsed, text):
                    yield record
            self.line = 1
            if whole and (record := self.tolerate(self.parsed, "\n".join(whole))):
                yield record
        self.path = self.root

    def _session(self, record: dict[str, Any], shared: Chains, seen: set[str]) -> list[Session]:
        sid = self.name(record, "id")
        if sid in seen:
            self.fail(f"session {sid!r} stands here twice", "each session once")
        size = self.tokens(record, "block_size")
        if self.block_size not in (None, size):
            self.fail(f"block_size is {size}", f"{self.block_size} as in the sessions before")
        scope = record.get("hash_id_scope") or "local"
        if scope not in ("local", "global"):
            self.fail(f"hash_id_scope is {scope!r}", "'local' or 'global'")
        self.block_size = size
        chains = shared if scope == "global" else Chains(shared.next)
        made = self._branch(record, sid, None, chains)
        shared.next = max(shared.next, chains.next)
        seen.update(session.sid for session in made)
        return made

    def _branch(self, record: dict[str, Any], sid: str, parent: Parent | None, chains: Chains) -> list[Session]:
        """The session of a list of requests, and those of its sub-agents."""
        requests: list[_Request] = []
        markers: list[tuple[int, dict[str, Any]]] = []  # behind so many requests
        for entry in self.get(record, "requests", list, "a list of requests"):
            if not isinstance(entry, dict):
                self.fail(f"a request that is a JSON {type(entry).__name__}", "an object")
            kind = entry.get("type")
            if kind == "subagent":
                if parent is not None:
                    self.fail("a sub-agent of a sub-agent", "requests alone")
                markers.append((len(requests), entry))
                continue
            if kind not in ("n", "s"):
                self.fail(f"type is {kind!r}", "'n', 's' or 'subagent'")
            self._add(requests, self._request(entry), blocked=bool(markers) and markers[-1][0] == len(requests))
        if not requests:
            self.fail(f"session {sid!r} has no request", "at least one")
        children: list[Session] = []
        spawned: dict[int, list[str]] = {}
        for number, (behind, marker) in enumerate(markers):
            child = self._child(sid, number, marker, requests, behind, chains)
            if child is not None:
                children.append(child)
                spawned.setdefault(behind - 1, []).append(child.sid)
        calls = [self._call(turn, requests, tuple(spawned.get(turn, ())), chains) for turn in range(len(requests))]
        kept = {key: record[key] for key in ("tool_tokens", "system_tokens", "subagent_type") if record.get(key)}
        duration_s = None if parent is None else round(requests[-1].end_s - requests[0].start_s, 3)
        session = make_session(sid, calls, agent="coding-agent", parent=parent, recorded_dur_s=duration_s, **kept)
        return [session, *children]

    def _child(
        self, sid: str, number: int, marker: dict[str, Any], requests: list[_Request], behind: int, chains: Chains
    ) -> Session | None:
        start_s = float(self.amount(marker, "t"))
        if not marker.get("requests"):
            return None  # started, but not recorded
        if not behind:
            self.fail("a sub-agent before any request", "a request that starts it")
        parent = Parent(sid, behind - 1, round(max(0.0, start_s - requests[behind - 1].end_s), 6))
        return self._branch(marker, f"{sid}.sub{number}", parent, chains)[0]

    def _request(self, entry: dict[str, Any]) -> _Request:
        in_tok, ids = self.tokens(entry, "in"), self.ids(entry, "hash_ids")
        assert self.block_size
        self.check_blocks(ids, in_tok, self.block_size)
        stop = entry.get("stop") or "unknown"
        start_s, api_s = float(self.amount(entry, "t")), self.amount(entry, "api_time", optional=True)
        return _Request(
            start_s=start_s,
            end_s=start_s + (api_s or 0.0),
            api_s=api_s,
            think_s=self.amount(entry, "think_time", optional=True),
            model=self.name(entry, "model"),
            in_tok=in_tok,
            out_tok=max(self.amount(entry, "out", whole=True), 1),
            ids=ids,
            stop=stop if stop in STOPS else "unknown",
            streamed=entry["type"] == "s",
        )

    def _add(self, requests: list[_Request], request: _Request, blocked: bool) -> None:
        last = requests[-1] if requests else None
        if last is None:
            requests.append(request)
            return
        if request.start_s < last.start_s:
            self.fail(f"a request at {request.start_s:g} s behind one at {last.start_s:g} s", "the order of time")
        same = (last.model, last.in_tok, last.ids) == (request.model, request.in_tok, request.ids)
        if same and last.streamed and not request.streamed and not blocked:
            request.start_s, request.think_s = last.start_s, last.think_s
            requests[-1] = request
        else:
            requests.append(request)

    def _call(self, turn: int, requests: list[_Request], spawn: tuple[str, ...], chains: Chains) -> TraceCall:
        request, before = requests[turn], requests[turn - 1] if turn else None
        delay_s: float | None = 0.0
        more: dict[str, Any] = {"model": request.model}
        if before is not None:
            delay_s = request.think_s
            if before.api_s is not None:
                delay_s = max(0.0, round(request.start_s - before.end_s, 6))
            elif delay_s is None:
                more["cycle_s"] = round(request.start_s - before.start_s, 6)
        return make_call(
            turn,
            after=turn - 1 if turn else None,
            delay_s=delay_s,
            kind={"tool_use": "tool", "end_turn": "user"}.get(before.stop, "tool_or_user") if before else "start",
            in_tok=request.in_tok,
            out_tok=request.out_tok,
            items=chains(request.ids, request.model),
            stop=request.stop,
            spawn=spawn,
            t_s=round(request.start_s - requests[0].start_s, 6),
            api_s=request.api_s,
            **more,
        )
