"""Block ids for a trace of messages: what a tokenizer would tell, estimated at four characters a token."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Session

CHARACTERS = 4  # a token
BLOCK = 64  # tokens a block id stands for


def as_blocks(sessions: Iterable[Session]) -> Iterator[Session]:
    """The sessions with prompts of enc `blocks`; equal ids stand for equal text behind equal text.

    Raises `InputError` for a prompt that is not messages.
    """
    numbers: dict[bytes, int] = {}
    for session in sessions:
        calls = []
        for call in session.calls:
            if call.enc != "msgs":
                raise InputError(
                    f"turn {call.turn} of session {session.sid!r} has a prompt of enc {call.enc!r}, expected 'msgs' or "
                    "'blocks'; nothing was done"
                )
            text = "".join(f"<{m.get('role')}>{_content(m)}" for m in call.items or () if isinstance(m, dict))
            ids = []
            chain = b""
            size = BLOCK * CHARACTERS
            for start in range(0, len(text) - size + 1, size):
                chain = sha256(chain + text[start : start + size].encode()).digest()
                ids.append(numbers.setdefault(chain, len(numbers) + 1))
            tokens = max(len(text) // CHARACTERS, 1)
            calls.append(dataclasses.replace(call, enc="blocks", items=tuple(ids), in_tok=tokens))
        yield dataclasses.replace(session, calls=tuple(calls))


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content)


def recycled(sessions: Iterable[Session], least: int) -> Iterator[Session]:
    """At least so many sessions: all of them, again and again, each copy with ids of its own.

    What several sessions share, such as instructions, the copies share too.
    """
    once = list(sessions)
    uses = Counter(number for session in once for number in {n for call in session.calls for n in call.items or ()})
    most = max(uses, default=0)
    for copy in range(-(-least // max(len(once), 1))):

        def own(number: Any, copy: int = copy) -> Any:
            return number if uses[number] > 1 else number + copy * most

        def name(sid: str, copy: int = copy) -> str:
            return f"{sid}.{copy}" if copy else sid

        for session in once:
            calls = tuple(
                dataclasses.replace(call, items=tuple(map(own, call.items or ())), spawn=tuple(map(name, call.spawn)))
                for call in session.calls
            )
            parent = session.parent and dataclasses.replace(session.parent, sid=name(session.parent.sid))
            yield dataclasses.replace(session, sid=name(session.sid), calls=calls, parent=parent) if copy else session
