"""The steps format of a fork of Continuum: a gzip pickle of plain values, or its `traces.jsonl`; read and written."""

import gzip
import io
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from agentcache.errors import InputError
from agentcache.files import whole
from agentcache_workloads.readers.formats.swe_smith import CHARACTERS
from agentcache_workloads.readers.parts.build import make_call, make_session, make_trace
from agentcache_workloads.readers.parts.lines import numbered_lines
from agentcache_workloads.readers.trace import Meta, Parent, Session, TraceCall

AGENT = "continuum"
MAX_BYTES = 4 << 30  # unpacked
_NOTES = "A step that was not accepted into the context is a sub-agent's session of one call."


class _Plain(pickle.Unpickler):
    """Numbers, strings, lists, tuples and dictionaries: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the file names {module}.{name}, and only plain values are read")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("the file refers to something outside of it")


def read_steps(path: str | Path) -> tuple[Meta, Iterator[Session]]:
    """Read `[{instance_id, steps: [{prompt, output, gap, tool, accepted, ...}]}]`, prompts in token ids.

    A `manifest.json` beside it with the file's SHA-256 is checked. Raises `InputError`.
    """
    path = Path(path)
    try:
        packed = path.read_bytes()
        _check_hash(path, packed)
        with gzip.open(io.BytesIO(packed)) as file:
            plain = file.read(MAX_BYTES + 1)
        if len(plain) > MAX_BYTES:
            raise InputError(f"{path} unpacks to more than {MAX_BYTES} bytes; nothing was done")
        jobs = _Plain(io.BytesIO(plain)).load()
    except InputError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise InputError(f"{path} cannot be read as steps: {error}; nothing was done") from error
    if not isinstance(jobs, list):
        raise InputError(f"{path} holds a {type(jobs).__name__}, expected a list of jobs; nothing was done")
    sessions: list[Session] = []
    for number, job in enumerate(jobs):
        where = f"{path}, job {number}"
        steps = job.get("steps") if isinstance(job, dict) else None
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise InputError(f"{where} has no list of steps; nothing was done")
        taken = [
            _Step(
                "tokens",
                _ids(where, step, "prompt"),
                len(_ids(where, step, "output")),
                None,
                _gap(where, step.get("gap", 0.0)),
                step.get("tool"),
                bool(step.get("accepted", True)),
                {"output_ids": list(_ids(where, step, "output"))},
            )
            for step in steps
        ]
        sessions += _sessions(f"{job.get('instance_id', number)}", taken)
    return _trace(path, sessions, "continuum-steps")


def read_step_events(path: str | Path) -> tuple[Meta, Iterator[Session]]:
    """Read `traces.jsonl`: a job a line, its requests as messages. Raises `InputError`."""
    sessions: list[Session] = []
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            job = json.loads(line)
            steps = [_event(where, event) for event in job["events"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where} is no job with events: {error!r}; nothing was done") from error
        sessions += _sessions(f"{job.get('instance_id', number)}", steps)
    return _trace(Path(path), sessions, "continuum-step-events")


class _Step:
    """One call: its prompt, the pause after it, and whether its output is in the next prompt."""

    def __init__(
        self,
        enc: str,
        items: tuple[Any, ...],
        out_tok: int,
        in_tok: int | None,
        gap_s: float,
        tool: Any,
        accepted: bool,
        more: dict[str, Any],
    ) -> None:
        self.enc, self.items, self.out_tok, self.gap_s, self.accepted, self.more = (
            enc,
            items,
            max(out_tok, 1),
            gap_s,
            accepted,
            more,
        )
        self.in_tok = max(len(items), 1) if in_tok is None else in_tok
        self.tools = (str(tool),) if tool else ()


def _event(where: str, event: dict[str, Any]) -> _Step:
    def part(group: str, name: str) -> Any:
        found = event.get(group)
        return found.get(name) if isinstance(found, dict) else event.get(f"{group}.{name}")

    messages = part("request", "messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: request.messages are no list of objects; nothing was done")
    content = str(part("response", "content") or "")
    command = part("tool", "command")
    words = command.split() if isinstance(command, str) else []
    return _Step(
        "msgs",
        tuple(messages),
        len(content) // CHARACTERS,
        max(sum(len(str(message.get("content") or "")) for message in messages) // CHARACTERS, 1),
        _gap(where, (event.get("tool_duration_ms") or 0.0)) / 1000,
        words[0] if words else None,
        bool(event.get("accepted_into_context", True)),
        {"tok_est": True},
    )


def _sessions(sid: str, steps: Sequence[_Step]) -> Iterator[Session]:
    """The accepted steps of a job as its session, and the others as branches of the step before them."""
    calls: list[tuple[_Step, float, list[str]]] = []  # with the pause before it, and the branches that it starts
    branches: list[Session] = []
    pause_s = 0.0
    for step in steps:
        if step.accepted or not calls:
            calls.append((step, pause_s, []))
            pause_s = step.gap_s
            continue
        name = f"{sid}~{len(branches)}"
        calls[-1][2].append(name)
        parent = Parent(sid, len(calls) - 1, pause_s)
        branches.append(make_session(name, [_call(0, None, 0.0, step, ())], agent=AGENT, parent=parent))
        pause_s += step.gap_s
    root = [
        _call(turn, turn - 1 if turn else None, pause_s, step, tuple(spawn))
        for turn, (step, pause_s, spawn) in enumerate(calls)
    ]
    if root:
        yield make_session(sid, root, agent=AGENT)
        yield from branches


def _call(turn: int, after: int | None, delay_s: float, step: _Step, spawn: tuple[str, ...]) -> TraceCall:
    return make_call(
        turn,
        after=after,
        delay_s=delay_s,
        kind="start" if after is None else "tool",
        in_tok=step.in_tok,
        out_tok=step.out_tok,
        enc=step.enc,
        items=step.items,
        stop="tool_use" if step.tools else "end_turn",
        tools=step.tools,
        spawn=spawn,
        **step.more,
    )


def _trace(path: Path, sessions: list[Session], source: str) -> tuple[Meta, Iterator[Session]]:
    if len({session.sid for session in sessions}) < len(sessions):
        raise InputError(f"{path} has two jobs of one instance_id; nothing was done")
    return make_trace(path.name.partition(".")[0], sessions, None, source, notes=_NOTES)


def _ids(where: str, step: dict[str, Any], name: str) -> tuple[int, ...]:
    ids = step.get(name)
    if not isinstance(ids, list | tuple) or not set(map(type, ids)) <= {int}:
        raise InputError(f"{where}: {name} of a step is no list of token ids; nothing was done")
    return tuple(ids)


def _gap(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where}: a pause is {value!r}, expected a number >= 0; nothing was done")
    return float(value)


def _check_hash(path: Path, packed: bytes) -> None:
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return
    said = json.loads(manifest.read_text(encoding="utf-8"))
    files = said.get("files", said) if isinstance(said, dict) else {}
    entry = files.get(path.name) if isinstance(files, dict) else None
    wanted = entry.get("sha256") if isinstance(entry, dict) else entry
    if isinstance(wanted, str) and wanted.removeprefix("sha256:") != sha256(packed).hexdigest():
        raise InputError(
            f"{path} is not the file that its manifest.json describes (SHA-256 differs); nothing was done",
            hint="fetch it again",
        )


def write_steps(path: str | Path, sessions: Iterable[Session]) -> None:
    """Write root sessions with prompts of enc `tokens`, and a manifest beside them.

    An output that a reader has not kept is what the next prompt has behind this one; where that is not known, zeros.
    Raises `InputError` for another enc.
    """
    path = Path(path)
    jobs = []
    for session in sessions:
        if session.parent is not None:
            continue
        if any(call.enc != "tokens" or not isinstance(call.items, tuple) for call in session.calls):
            raise InputError(f"session {session.sid!r} has prompts that are no token ids; nothing was written")
        steps = []
        for call, later in zip(session.calls, [*session.calls[1:], None], strict=True):
            prompt = list(call.items or ())
            output = call.record.get("output_ids")
            if output is None:
                behind = list(later.items or ())[len(prompt) :][: call.out_tok] if later else []
                output = behind + [0] * (call.out_tok - len(behind))
            gap_s = (later.delay_s or 0.0) if later else 0.0
            tool = call.tools[0] if call.tools else None
            steps.append(
                {
                    "prompt": prompt,
                    "output": list(output),
                    "gap": gap_s,
                    "tool": tool,
                    "accepted": True,
                    "turn": call.turn,
                    "attempt": 0,
                }
            )
        jobs.append({"instance_id": session.sid, "steps": steps})
    try:
        packed = gzip.compress(pickle.dumps(jobs, protocol=4), mtime=0)
        with whole(path) as file:
            file.write(packed)
        manifest = json.dumps({"files": {path.name: sha256(packed).hexdigest()}})
        with whole(path.parent / "manifest.json") as file:
            file.write(manifest.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; nothing was written") from error
